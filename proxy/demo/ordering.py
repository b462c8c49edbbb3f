"""The order of a listing, and what comes after a marker in it (``_paginate_query`` of Glance)."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from proxy.demo.image import Image
from proxy.demo.query import SortKey

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
