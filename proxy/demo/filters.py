"""Filters as conditions on an image (``_make_conditions_from_filters`` of Glance's ``db/sqlalchemy/api.py``).

The order of a listing, and what comes after a marker in it (``_paginate_query`` of Glance).

Who may see what: the rules by which Glance shows an image to a project.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import NamedTuple

from proxy.demo.image import Image, instant
from proxy.demo.query import ListQuery, RefusedError, SortKey

Condition = Callable[[Image], bool]

NUMBERS = ("size", "virtual_size", "min_ram", "min_disk")
CHOICES = ("id", "name", "status", "container_format", "disk_format")
COMPARISONS: dict[str, Callable[[datetime, datetime], bool]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
    "eq": operator.eq,
    "neq": operator.ne,
}
NUMERAL = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*")
IN_ITEM = re.compile(r'"((?:[^"\\]|\\.)*)"(?:,|$)|([^",]+)(?:,|$)|()(?:,)')


def conditions(query: ListQuery) -> list[Condition]:
    """Return what an image must satisfy, beyond being visible; raises RefusedError where Glance does.

    A filter on an attribute that is null never matches, ``neq`` included, as in SQL. Of several that are wrong the
    first by name is told of, in whatever order they come.
    """
    filters = dict(query.filters)
    wanted = [_hidden(filters.pop("os_hidden", "false"))]
    protected = filters.pop("protected", None)
    if protected is not None:
        wanted.append(_protected(protected))
    wanted += [_condition(name, value) for name, value in sorted(filters.items())]
    return wanted + [_tag(tag) for tag in query.tags]


def _condition(name: str, value: str) -> Condition:
    if name.endswith(("_min", "_max")):
        return _range(name, value)
    if name in ("created_at", "updated_at"):
        return _time(name, value)
    if name in CHOICES:
        return _choice(name, value)
    if name in NUMBERS:
        return _number(name, value)
    return lambda image: image.text(name) == value


def _tag(value: str) -> Condition:
    """IMS stores the tag ``a=b`` as ``a.b`` and is asked for it as ``a=b``: the first ``=`` divides key from value."""
    dotted = value.replace("=", ".", 1)
    return lambda image: value in image.tags or dotted in image.tags


def _protected(value: str) -> Condition:
    if value not in ("true", "false"):
        raise RefusedError(400, f"protected: {value!r} is neither true nor false")
    return lambda image: image.text("protected") == value


def _hidden(value: str) -> Condition:
    if value.lower() not in ("true", "false"):
        raise RefusedError(400, f"os_hidden: {value!r} is neither true nor false")
    hidden = value.lower() == "true"
    return lambda image: (image.text("os_hidden") == "true") is hidden


def _number(name: str, value: str) -> Condition:
    """Return equality with whatever the database reads as a number: ``0100``, ``+100`` and ``100.0`` are 100."""
    number = float(value) if NUMERAL.fullmatch(value) else None
    return lambda image: number is not None and image.number(name) == number


def _range(name: str, value: str) -> Condition:
    """Return a bound on a number; of an attribute that is none, Glance fails with 500."""
    try:
        bound = int(value)
    except ValueError:
        raise RefusedError(400, f"{name}: not an integer") from None
    attribute, within = name[:-4], operator.ge if name.endswith("_min") else operator.le
    if attribute not in NUMBERS:
        raise RefusedError(500, "internal error")

    def holds(image: Image) -> bool:
        number = image.number(attribute)
        return number is not None and within(number, bound)

    return holds


def _time(name: str, value: str) -> Condition:
    """Return a comparison with a time, ``op:time``; a time alone is ``eq``, although it has colons of its own."""
    try:
        comparison, moment = COMPARISONS["eq"], instant(value)
    except ValueError:
        symbol, _, text = value.partition(":")
        if symbol not in COMPARISONS:
            raise RefusedError(400, f"{name}: unknown operator or bad time") from None
        comparison = COMPARISONS[symbol]
        moment = _instant(name, text)

    def holds(image: Image) -> bool:
        stored = image.time(name)
        return stored is not None and comparison(stored, moment)

    return holds


def _instant(name: str, text: str) -> datetime:
    try:
        return instant(text)
    except ValueError:
        raise RefusedError(400, f"{name}: not an ISO 8601 time") from None


def _choice(name: str, value: str) -> Condition:
    """Return equality with one value, or with any of ``in:a,b`` (a value with a comma stands in double quotes)."""
    symbol, colon, text = value.partition(":")
    if not colon:
        return lambda image: image.text(name) == value
    if symbol == "eq":
        return lambda image: image.text(name) == text
    if symbol == "in":
        choices = _choices(name, text)
        return lambda image: image.text(name) in choices
    raise RefusedError(400, f"{name}: unknown operator {symbol!r}")


def _choices(name: str, text: str) -> frozenset[str]:
    choices, position = set(), 0
    while position < len(text):
        item = IN_ITEM.match(text, position)
        if item is None:
            raise RefusedError(400, f"{name}: misplaced quotation mark")
        choices.add(item[1] or item[2] or "")
        position = item.end()
    return frozenset(choices)


Value = str | int | datetime


@dataclass(frozen=True, slots=True)
class Order:
    """All images of the store in one order, and where each stands in it: so a marker need not match the filters."""

    sort: tuple[SortKey, ...]
    images: tuple[Image, ...]
    rank: Mapping[str, int]

    def after(self, marker: Image) -> Iterator[Image]:
        """Yield what follows *marker*."""
        return (self.images[position] for position in range(self.rank[marker.id] + 1, len(self.images)))

    def after_in_glance(self, marker: Image) -> Iterator[Image]:
        """Yield what Glance takes to follow *marker*: not the same where a sort key is null.

        It sorts NULL first, but pages by comparing NULL as 0 with a marker's NULL as the empty string, which SQLite
        puts after every number. Pages then stop early or repeat, as they do upstream.
        """
        return (image for image in self.images if self._follows(image, marker))

    def _follows(self, image: Image, marker: Image) -> bool:
        for key in self.sort:
            default = {"size": 0, "updated_at": None}.get(key.name, "")
            left, right = _stored(image, key.name, default), _stored(marker, key.name, "")
            if left is None:
                return False
            if left != right:
                return _sqlite_less(left, right) if key.descending else _sqlite_less(right, left)
        return False


def order(images: Iterable[Image], sort: tuple[SortKey, ...]) -> Order:
    """Return *images* by *sort*, whose last key is an id: a total order, with NULL before every value."""
    ordered = list(images)
    for key in reversed(sort):
        ordered.sort(key=partial(_null_first, key.name), reverse=key.descending)
    return Order(sort, tuple(ordered), {image.id: position for position, image in enumerate(ordered)})


def _value(image: Image, name: str) -> Value | None:
    if name == "size":
        return image.number(name)
    return image.time(name) if name in ("created_at", "updated_at") else image.text(name)


def _null_first(name: str, image: Image) -> tuple[bool, Value]:
    value = _value(image, name)
    return (False, 0) if value is None else (True, value)


def _stored(image: Image, name: str, default: str | int | None) -> str | int | None:
    value = _value(image, name)
    if value is None:
        return default
    return value.isoformat() if isinstance(value, datetime) else value


def _sqlite_less(left: str | int | None, right: str | int | None) -> bool:
    return (isinstance(left, str), left) < (isinstance(right, str), right)


class Caller(NamedTuple):
    """Whom a token stands for."""

    user: str
    project: str
    roles: tuple[str, ...] = ("member",)

    @property
    def admin(self) -> bool:
        return "admin" in self.roles

    @property
    def may_write(self) -> bool:
        return self.admin or "member" in self.roles


def readable(caller: Caller, image: Image) -> bool:
    """Return whether *caller* may read *image* by id, or use it as a marker.

    Wider than what is listed: an offer of sharing counts whatever became of it (``is_image_visible`` of Glance).
    """
    return (
        caller.admin
        or image.owner in (None, caller.project)
        or image.visibility in ("public", "community")
        or (image.visibility == "shared" and caller.project in image.members)
    )


def listed(caller: Caller, image: Image, *, visibility: str | None, member_status: str) -> bool:
    """Return whether *image* belongs to the lists of *caller*, before any other filter.

    Own, public, and shared with a membership in *member_status* ("all" for any). Community images of others are
    listed only when *visibility* asks for them.
    """
    own = image.owner == caller.project
    if not (own or caller.admin or image.visibility in ("public", "community")):
        member = image.members.get(caller.project) if image.visibility == "shared" else None
        if member is None or member_status not in ("all", member.status):
            return False
    if visibility is None:
        return own or image.visibility != "community"
    return visibility in ("all", image.visibility)
