"""A raw query string, read as Glance reads it (``RequestDeserializer.index`` of ``api/v2/images.py``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

ERROR_CODES = {
    400: "IMG.0024",
    401: "IMG.0005",
    403: "IMG.0003",
    404: "IMG.0027",
    405: "IMG.0004",
    409: "IMG.0009",
    413: "IMG.0013",
    415: "IMG.0015",
    500: "IMG.0001",
}
"""An IMS error code per status. The shape is documented; the numbers are stand-ins, and nothing may rely on them."""


class ImsError(Exception):
    """The request can't be granted: *status* is what HTTP says about it, *message* what a person reads."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message
        self.code = ERROR_CODES[status]


SORT_KEYS = ("name", "status", "container_format", "disk_format", "size", "id", "created_at", "updated_at")
MEMBER_STATUSES = ("pending", "accepted", "rejected", "all")
VISIBILITIES = ("community", "public", "private", "shared", "all")

Pairs = Sequence[tuple[str, str]]
"""Parameters in the order sent, decoded, repetitions included."""


class SortKey(NamedTuple):
    name: str
    is_descending: bool


@dataclass(frozen=True, slots=True)
class ListQuery:
    """One list request: which images (*filters* to *member_status*), in which order, and which page of them."""

    filters: Mapping[str, str]
    tags: tuple[str, ...]
    visibility: str | None
    member_status: str
    sort: tuple[SortKey, ...]
    marker: str | None
    limit: int


def parse_query_pairs(raw: str) -> Pairs:
    """Return the parameters of a raw query string, where ``;`` separates like ``&`` and ``+`` is a space.

    Raises RefusedError (400) where the bytes are not UTF-8.
    """
    pieces = [piece for part in raw.split("&") for piece in part.split(";") if piece]
    try:
        return [
            (_percent_decode(name), _percent_decode(value))
            for name, _, value in (piece.partition("=") for piece in pieces)
        ]
    except UnicodeError:
        raise ImsError(400, "the query string is not UTF-8") from None


def parse_list_query(pairs: Pairs, *, default_limit: int, max_limit: int) -> ListQuery:
    """Return what *pairs* ask for; raises RefusedError (400) as Glance does.

    Of a repeated ``limit`` or ``marker`` the first counts and the rest are taken for filters on properties of that
    name, which no image has: such a list is empty. Of a repeated ``visibility`` the first says what is visible, the
    last is a filter besides. Of any other repeated filter the last counts.
    """
    rest = list(pairs)
    limit = _pop_first(rest, "limit")
    marker = _pop_first(rest, "marker")
    member_status = _pop_first(rest, "member_status")
    tags = tuple(tag.strip() for tag in _pop_all(rest, "tag"))
    _check_choice("visibility", dict(rest).get("visibility") or None, VISIBILITIES)
    _check_choice("member_status", member_status, MEMBER_STATUSES)
    visibility = _pop_first(rest, "visibility")
    sort = _parse_sort(rest)
    filters = dict(rest)
    filters.pop("deleted", None)
    if "changes-since" in filters:
        raise ImsError(400, "changes-since: no longer a filter")
    return ListQuery(
        filters=filters,
        tags=tags,
        visibility=visibility,
        member_status="accepted" if member_status is None else member_status,
        sort=sort,
        marker=marker,
        limit=min(default_limit if limit is None else _parse_limit(limit), max_limit),
    )


def _percent_decode(text: str) -> str:
    return unquote_to_bytes(text.replace("+", " ").encode("utf-8", "surrogateescape")).decode("utf-8")


def _pop_first(pairs: list[tuple[str, str]], name: str) -> str | None:
    for position, (candidate, value) in enumerate(pairs):
        if candidate == name:
            del pairs[position]
            return value
    return None


def _pop_all(pairs: list[tuple[str, str]], name: str) -> list[str]:
    values = [value for candidate, value in pairs if candidate == name]
    pairs[:] = [pair for pair in pairs if pair[0] != name]
    return values


def _check_choice(name: str, value: str | None, choices: tuple[str, ...]) -> None:
    if value is not None and value not in choices:
        raise ImsError(400, f"{name}: {value!r} is none of {', '.join(choices)}")


def _parse_limit(text: str) -> int:
    """Return a page size the lenient way of ``int()``: ``+1`` and ``1_0`` pass, as they do in Glance."""
    try:
        limit = int(text)
    except ValueError:
        raise ImsError(400, "limit: not an integer") from None
    if limit < 0:
        raise ImsError(400, "limit: negative")
    return limit


def _parse_sort(pairs: list[tuple[str, str]]) -> tuple[SortKey, ...]:
    """Return the whole order, and take its parameters out of *pairs*.

    One direction serves every key; two or more must be as many as the keys. ``created_at`` and ``id`` complete the
    order: in the one direction given, or descending where there are several (``_image_get_all`` of Glance).
    """
    names = {name for name, _ in pairs}
    if "sort" in names:
        if names & {"sort_key", "sort_dir"}:
            raise ImsError(400, "sort: can't go with sort_key or sort_dir")
        parts = [part.partition(":") for part in (_pop_first(pairs, "sort") or "").strip().split(",")]
        keys = [key.strip() for key, _, _ in parts]
        directions = [direction.strip() if direction else "desc" for _, _, direction in parts]
    else:
        keys = [key.strip() for key in _pop_all(pairs, "sort_key")]
        directions = [direction.strip() for direction in _pop_all(pairs, "sort_dir")] or ["desc"]
        if len(directions) > 1 and len(directions) != len(keys):
            raise ImsError(400, f"sort_dir: {len(directions)} directions for {len(keys)} keys")
        keys = keys or ["created_at"]
    for key in keys:
        _check_choice("sort key", key, SORT_KEYS)
    for direction in directions:
        _check_choice("sort direction", direction, ("asc", "desc"))
    fallback = directions[0] if len(directions) == 1 else "desc"
    directions = directions * len(keys) if len(directions) == 1 else directions
    missing = [key for key in ("created_at", "id") if key not in keys]
    completed = zip(keys + missing, directions + [fallback] * len(missing), strict=True)
    return tuple(SortKey(key, direction == "desc") for key, direction in completed)
