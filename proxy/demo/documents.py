"""The small documents beside the images: versions, schemas, quota and operating systems."""

from collections.abc import Iterable, Mapping
from itertools import groupby

from proxy.demo.image import Image

VERSIONS = (("v2.7", "SUPPORTED"), ("v2.6", "SUPPORTED"), ("v2.0", "SUPPORTED"))
QUOTA = 100

_TEXT = {"type": "string"}
_NULLABLE_TEXT = {"type": ["null", "string"]}
_COUNT = {"type": "integer"}

IMAGE_PROPERTIES: Mapping[str, Mapping[str, object]] = {
    "id": _TEXT,
    "name": _NULLABLE_TEXT,
    "status": {"type": "string", "enum": ["queued", "saving", "active", "killed", "deleted"], "readOnly": True},
    "visibility": {"type": "string", "enum": ["public", "private", "shared", "community"]},
    "owner": _NULLABLE_TEXT,
    "protected": {"type": "boolean"},
    "container_format": _NULLABLE_TEXT,
    "disk_format": _NULLABLE_TEXT,
    "size": {"type": ["null", "integer"], "readOnly": True},
    "min_ram": _COUNT,
    "min_disk": _COUNT,
    "tags": {"type": "array", "items": {"type": "string", "maxLength": 255}},
    "created_at": {"type": "string", "readOnly": True},
    "updated_at": {"type": "string", "readOnly": True},
}
MEMBER_PROPERTIES: Mapping[str, Mapping[str, object]] = {
    "image_id": _TEXT,
    "member_id": _TEXT,
    "status": {"type": "string", "enum": ["pending", "accepted", "rejected"]},
    "created_at": _TEXT,
    "updated_at": _TEXT,
    "schema": {"type": "string", "readOnly": True},
}


def versions(host: str) -> dict[str, object]:
    """Return the API versions: the one document whose links are absolute, and name the *host* that was asked."""
    return {
        "versions": [
            {"id": version, "status": status, "links": [{"rel": "self", "href": f"http://{host}/v2/"}]}
            for version, status in VERSIONS
        ]
    }


def schema(name: str) -> dict[str, object] | None:
    """Return the JSON schema *name*, or None for one that does not exist."""
    match name:
        case "image":
            return {"name": name, "properties": IMAGE_PROPERTIES, "additionalProperties": _TEXT}
        case "member":
            return {"name": name, "properties": MEMBER_PROPERTIES}
        case "images" | "members":
            item = schema(name.removesuffix("s"))
            links = [{"rel": "first", "href": "{first}"}, {"rel": "next", "href": "{next}"}]
            return {"name": name, "properties": {name: {"type": "array", "items": item}}, "links": links}
        case _:
            return None


def os_versions(images: Iterable[Image]) -> list[dict[str, object]]:
    """Return the operating systems that *images* hold, grouped by platform: a top-level array."""
    systems = sorted({tuple(image.text(f"__{name}") or "" for name in _SYSTEM) for image in images})
    return [
        {
            "platform": platform,
            "version_list": [
                {"platform": platform, "os_version_key": version, "os_version": version, "os_bit": bit, "os_type": kind}
                for _, version, bit, kind in group
            ],
        }
        for platform, group in groupby(systems, key=lambda system: system[0])
        if platform
    ]


def quota(used: int) -> dict[str, object]:
    """Return how many images a project has, and may have."""
    return {"quotas": {"resources": [{"type": "image", "used": used, "quota": QUOTA, "min": 0, "max": 10_000}]}}


_SYSTEM = ("platform", "os_version", "os_bit", "os_type")
