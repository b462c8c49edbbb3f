"""Which images a list shows, and in what order, as Glance decides it.

Sources: ``_make_conditions_from_filters`` and ``_paginate_query`` of Glance's ``db/sqlalchemy/api.py``.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import NamedTuple

from proxy.demo.image import Image, parse_time
from proxy.demo.query import ImsError, ListQuery, SortKey

Condition = Callable[[Image], bool]

NUMERIC_ATTRIBUTES = ("size", "virtual_size", "min_ram", "min_disk")
IN_FILTER_ATTRIBUTES = ("id", "name", "status", "container_format", "disk_format")
COMPARISONS: dict[str, Callable[[datetime, datetime], bool]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
    "eq": operator.eq,
    "neq": operator.ne,
}
NUMERIC_TEXT = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*")
IN_ITEM = re.compile(r'"((?:[^"\\]|\\.)*)"(?:,|$)|([^",]+)(?:,|$)|()(?:,)')


def build_conditions(query: ListQuery) -> list[Condition]:
    """Return what an image must satisfy, beyond being visible; raises RefusedError where Glance does.

    A filter on an attribute that is null never matches, ``neq`` included, as in SQL. Of several that are wrong the
    first by name is told of, in whatever order they come.
    """
    filters = dict(query.filters)
    wanted = [_hidden_condition(filters.pop("os_hidden", "false"))]
    protected = filters.pop("protected", None)
    if protected is not None:
        wanted.append(_protected_condition(protected))
    wanted += [_build_condition(name, value) for name, value in sorted(filters.items())]
    return wanted + [_tag_condition(tag) for tag in query.tags]


def _build_condition(name: str, value: str) -> Condition:
    if name.endswith(("_min", "_max")):
        return _range_condition(name, value)
    if name in ("created_at", "updated_at"):
        return _time_condition(name, value)
    if name in IN_FILTER_ATTRIBUTES:
        return _choice_condition(name, value)
    if name in NUMERIC_ATTRIBUTES:
        return _number_condition(name, value)
    return lambda image: image.get_text(name) == value


def _tag_condition(value: str) -> Condition:
    """IMS stores the tag ``a=b`` as ``a.b`` and is asked for it as ``a=b``: the first ``=`` divides key from value."""
    dotted = value.replace("=", ".", 1)
    return lambda image: value in image.tags or dotted in image.tags


def _protected_condition(value: str) -> Condition:
    if value not in ("true", "false"):
        raise ImsError(400, f"protected: {value!r} is neither true nor false")
    return lambda image: image.get_text("protected") == value


def _hidden_condition(value: str) -> Condition:
    if value.lower() not in ("true", "false"):
        raise ImsError(400, f"os_hidden: {value!r} is neither true nor false")
    hidden = value.lower() == "true"
    return lambda image: (image.get_text("os_hidden") == "true") is hidden


def _number_condition(name: str, value: str) -> Condition:
    """Return equality with whatever the database reads as a number: ``0100``, ``+100`` and ``100.0`` are 100."""
    number = float(value) if NUMERIC_TEXT.fullmatch(value) else None
    return lambda image: number is not None and image.get_number(name) == number


def _range_condition(name: str, value: str) -> Condition:
    """Return a bound on a number; of an attribute that is none, Glance fails with 500."""
    try:
        bound = int(value)
    except ValueError:
        raise ImsError(400, f"{name}: not an integer") from None
    attribute, within = name[:-4], operator.ge if name.endswith("_min") else operator.le
    if attribute not in NUMERIC_ATTRIBUTES:
        raise ImsError(500, "internal error")

    def holds(image: Image) -> bool:
        number = image.get_number(attribute)
        return number is not None and within(number, bound)

    return holds


def _time_condition(name: str, value: str) -> Condition:
    """Return a comparison with a time, ``op:time``; a time alone is ``eq``, although it has colons of its own."""
    try:
        comparison, moment = COMPARISONS["eq"], parse_time(value)
    except ValueError:
        symbol, _, text = value.partition(":")
        if symbol not in COMPARISONS:
            raise ImsError(400, f"{name}: unknown operator or bad time") from None
        comparison = COMPARISONS[symbol]
        moment = _parse_time_filter(name, text)

    def holds(image: Image) -> bool:
        stored = image.get_time(name)
        return stored is not None and comparison(stored, moment)

    return holds


def _parse_time_filter(name: str, text: str) -> datetime:
    try:
        return parse_time(text)
    except ValueError:
        raise ImsError(400, f"{name}: not an ISO 8601 time") from None


def _choice_condition(name: str, value: str) -> Condition:
    """Return equality with one value, or with any of ``in:a,b`` (a value with a comma stands in double quotes)."""
    symbol, colon, text = value.partition(":")
    if not colon:
        return lambda image: image.get_text(name) == value
    if symbol == "eq":
        return lambda image: image.get_text(name) == text
    if symbol == "in":
        choices = _parse_in_values(name, text)
        return lambda image: image.get_text(name) in choices
    raise ImsError(400, f"{name}: unknown operator {symbol!r}")


def _parse_in_values(name: str, text: str) -> frozenset[str]:
    choices, position = set(), 0
    while position < len(text):
        item = IN_ITEM.match(text, position)
        if item is None:
            raise ImsError(400, f"{name}: misplaced quotation mark")
        choices.add(item[1] or item[2] or "")
        position = item.end()
    return frozenset(choices)


Value = str | int | datetime


@dataclass(frozen=True, slots=True)
class SortedImages:
    """All images of the store in one order, and where each stands in it: so a marker need not match the filters."""

    sort: tuple[SortKey, ...]
    images: tuple[Image, ...]
    position_by_id: Mapping[str, int]

    def images_after(self, marker: Image) -> Iterator[Image]:
        """Yield what follows *marker*."""
        return (self.images[position] for position in range(self.position_by_id[marker.id] + 1, len(self.images)))

    def images_after_as_glance(self, marker: Image) -> Iterator[Image]:
        """Yield what Glance takes to follow *marker*: not the same where a sort key is null.

        It sorts NULL first, but pages by comparing NULL as 0 with a marker's NULL as the empty string, which SQLite
        puts after every number. Pages then stop early or repeat, as they do upstream.
        """
        return (image for image in self.images if self._follows_as_glance(image, marker))

    def _follows_as_glance(self, image: Image, marker: Image) -> bool:
        for key in self.sort:
            default = {"size": 0, "updated_at": None}.get(key.name, "")
            left, right = _sqlite_value(image, key.name, default), _sqlite_value(marker, key.name, "")
            if left is None:
                return False
            if left != right:
                return _is_less_in_sqlite(left, right) if key.is_descending else _is_less_in_sqlite(right, left)
        return False


def sort_images(images: Iterable[Image], sort: tuple[SortKey, ...]) -> SortedImages:
    """Return *images* by *sort*, whose last key is an id: a total order, with NULL before every value."""
    ordered = list(images)
    for key in reversed(sort):
        ordered.sort(key=partial(_null_first_key, key.name), reverse=key.is_descending)
    return SortedImages(sort, tuple(ordered), {image.id: position for position, image in enumerate(ordered)})


def _sort_value(image: Image, name: str) -> Value | None:
    if name == "size":
        return image.get_number(name)
    return image.get_time(name) if name in ("created_at", "updated_at") else image.get_text(name)


def _null_first_key(name: str, image: Image) -> tuple[bool, Value]:
    value = _sort_value(image, name)
    return (False, 0) if value is None else (True, value)


def _sqlite_value(image: Image, name: str, default: str | int | None) -> str | int | None:
    value = _sort_value(image, name)
    if value is None:
        return default
    return value.isoformat() if isinstance(value, datetime) else value


def _is_less_in_sqlite(left: str | int | None, right: str | int | None) -> bool:
    return (isinstance(left, str), left) < (isinstance(right, str), right)


class Caller(NamedTuple):
    """Whom a token stands for."""

    user: str
    project: str
    roles: tuple[str, ...] = ("member",)

    @property
    def is_admin(self) -> bool:
        return "admin" in self.roles

    @property
    def can_write(self) -> bool:
        return self.is_admin or "member" in self.roles


def is_readable(caller: Caller, image: Image) -> bool:
    """Return whether *caller* may read *image* by id, or use it as a marker.

    Wider than what is listed: an offer of sharing counts whatever became of it (``is_image_visible`` of Glance).
    """
    return (
        caller.is_admin
        or image.owner in (None, caller.project)
        or image.visibility in ("public", "community")
        or (image.visibility == "shared" and caller.project in image.members)
    )


def is_listed(caller: Caller, image: Image, *, visibility: str | None, member_status: str) -> bool:
    """Return whether *image* belongs to the lists of *caller*, before any other filter.

    Own, public, and shared with a membership in *member_status* ("all" for any). Community images of others are
    listed only when *visibility* asks for them.
    """
    own = image.owner == caller.project
    if not (own or caller.is_admin or image.visibility in ("public", "community")):
        member = image.members.get(caller.project) if image.visibility == "shared" else None
        if member is None or member_status not in ("all", member.status):
            return False
    if visibility is None:
        return own or image.visibility != "community"
    return visibility in ("all", image.visibility)
