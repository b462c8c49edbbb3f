"""Images straight into Glance's database: its API can't set `created_at`, and needs minutes for what takes a second."""

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from tests.support.glance.images import Image

Row = dict[str, object]


def seed(database: Path, images: Iterable[Image]) -> None:
    """Write *images* in one transaction, which a running Glance sees as soon as this returns."""
    with contextlib.closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        for image in images:
            _insert(connection, "images", _image_row(image))
            for table, rows in _belongings(image).items():
                for row in rows:
                    _insert(connection, table, row | {"image_id": image.id} | _times(image))


def _insert(connection: sqlite3.Connection, table: str, row: Row) -> None:
    places = ", ".join("?" * len(row))
    connection.execute(f"insert into {table} ({', '.join(row)}) values ({places})", tuple(row.values()))


def _image_row(image: Image) -> Row:
    columns = ("id", "name", "owner", "visibility", "status", "size", "disk_format", "container_format")
    numbers = ("min_disk", "min_ram", "protected", "os_hidden")
    row: Row = {column: getattr(image, column) for column in (*columns, *numbers)}
    if image.size is not None:
        row["virtual_size"] = image.size
        row["checksum"] = hashlib.md5(image.id.encode()).hexdigest()
        row["os_hash_algo"] = "sha512"
        row["os_hash_value"] = hashlib.sha512(image.id.encode()).hexdigest()
    return row | _times(image)


def _belongings(image: Image) -> dict[str, list[Row]]:
    return {
        "image_tags": [{"value": tag} for tag in image.tags],
        "image_properties": [{"name": name, "value": value} for name, value in image.properties.items()],
        "image_members": [
            {"member": project, "status": status, "can_share": 0} for project, status in image.members.items()
        ],
    }


def _times(image: Image) -> Row:
    updated_at = _column(image.updated_at)
    return {
        "created_at": _column(image.created_at),
        "updated_at": updated_at,
        "deleted": image.deleted,
        "deleted_at": updated_at if image.deleted else None,
    }


def _column(time_s: int) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M:%S.000000")
