"""Parses a raw query string into the listing it asks for and the window onto it.

The canonical form goes upstream and into the cache key, so the two can't differ. A query that could mean one thing here
and another upstream is an `UnclearQuery`: it is forwarded unchanged and never stored.
"""

from __future__ import annotations

import re
from dataclasses import field
from functools import lru_cache
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from proxy.core.list_api import IMAGES, ListApi, ParameterRole
from proxy.core.values import immutable

Pairs = tuple[tuple[str, str], ...]

_LIMIT: Final = re.compile(r"[0-9]{1,18}", re.ASCII)
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CONTROL_CHARACTER: Final = re.compile(r"[\x00-\x1f\x7f]")
_MAX_MARKER_CHARS: Final = 255
_MAX_CACHED_CHARS: Final = 1024


@immutable
class UnclearQuery:
    """A query that is not safe to normalise; *reason* is a `Cache-Status` detail, never the caller's text."""

    reason: str


@immutable
class Window:
    """*limit* items after *marker*; None if the caller did not send it."""

    limit: int | None = None
    marker: str | None = None


@immutable
class SortOrder:
    """The sort keys of a listing of *api*, before Glance appends `created_at` and `id`.

    *descending* are their directions; a single one applies to every key.
    """

    keys: tuple[str, ...]
    descending: tuple[bool, ...] = field(default=(True,), compare=False)
    api: ListApi = field(default=IMAGES, compare=False)

    @property
    def has_total_order(self) -> bool:
        """Every page is a window of one total order."""
        return self.api.total_order_sort_keys.issuperset(self.keys)

    @property
    def is_stable(self) -> bool:
        """No change of an item can move it, so spans fetched at different times may be joined."""
        return self.api.stable_sort_keys.issuperset(self.keys)

    @property
    def total_order(self) -> tuple[tuple[str, bool], ...]:
        """The keys as Glance completes them, each with whether it descends."""
        keys = (*self.keys, *(key for key in ("created_at", "id") if key not in self.keys))
        if len(self.descending) == 1:
            return tuple((key, self.descending[0]) for key in keys)
        return tuple(zip(keys, (*self.descending, True, True), strict=False))

    @property
    def nullable_keys(self) -> tuple[str, ...]:
        """The keys that an item may lack."""
        return tuple(key for key in self.keys if key in self.api.nullable_sort_keys)


@immutable
class ListQuery:
    """A canonical list query: *pairs* name the listing of *api*, *window* the page.

    *canonical* is the listing's query, percent-encoded, without its window; *sort* are its sort keys in rank order.
    """

    pairs: Pairs
    window: Window
    api: ListApi = IMAGES
    canonical: str = field(init=False, compare=False)
    sort: SortOrder = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "canonical", encode_pairs(self.pairs))
        object.__setattr__(self, "sort", _parse_sort(self.pairs, self.api))


def _parse_sort(pairs: Pairs, api: ListApi) -> SortOrder:
    """Return the sort keys in *pairs*, in rank order."""
    combined = [value for name, value in pairs if name == "sort"]
    if combined:
        parts = [part.partition(":") for part in combined[-1].strip().split(",")]
        keys = [key.strip() for key, _, _ in parts]
        descending = tuple(direction.strip() != "asc" for _, _, direction in parts)
        # Repeated `sort`, or `sort` beside `sort_key`, is an error upstream or a guess here: an unknown key.
        mixed = len(combined) > 1 or any(name in ("sort_key", "sort_dir") for name, _ in pairs)
        return SortOrder(("",) if mixed else tuple(keys), descending, api)
    keys = [value for name, value in pairs if name == "sort_key"]
    descending = tuple(value != "asc" for name, value in pairs if name == "sort_dir")
    default = dict(api.query_defaults).get("sort_key", "")
    return SortOrder(tuple(keys) or (default,), descending or (True,), api)


def encode_pairs(pairs: Pairs) -> str:
    """Return *pairs* as a query string: all but RFC 3986's unreserved characters escaped, a space as `%20`."""
    return "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in pairs)


def parse_list_query(raw: str, api: ListApi = IMAGES) -> ListQuery | UnclearQuery:
    """Return the canonical form of the raw query *raw*, or why there is none. Short ones are remembered.

    Split at `&` only and at the first `=` (a tag may hold one), decoded once. Nothing is folded or trimmed.
    """
    return _parse_cached(raw, api) if len(raw) <= _MAX_CACHED_CHARS else _parse_uncached(raw, api)


def _parse_uncached(raw: str, api: ListApi) -> ListQuery | UnclearQuery:
    pairs = _decode_pairs(raw)
    if isinstance(pairs, UnclearQuery):
        return pairs
    window = _parse_window(pairs)
    if isinstance(window, UnclearQuery):
        return window
    return ListQuery(tuple(_canonical_pairs(_without_window(pairs, api), api)), window, api)


_parse_cached = lru_cache(maxsize=4096)(_parse_uncached)


def describe_normalisation(raw: str, api: ListApi = IMAGES) -> tuple[str, ...]:
    """Return what `parse_list_query` takes away from the raw query *raw*, or spells another way, in words for a
    person.
    """
    pairs = _decode_pairs(raw)
    if isinstance(pairs, UnclearQuery):
        return ()
    listing = _without_window(pairs, api)
    dropped = _find_defaults(listing, api)
    notes = [f"{name}={value} is the default of the query" for name, value in sorted(dropped)]
    if _canonical_pairs(listing, api) != [pair for pair in listing if pair not in dropped]:
        notes.append("parameters are ordered by name, equal tags by value; repeated sort keys keep their order")
    if listing and not set(encode_pairs(tuple(listing)).split("&")) <= set(raw.split("&")):
        notes.append("escapes are spelt one way: %20 for a space, upper-case hex, nothing escaped that need not be")
    return tuple(notes)


def _without_window(pairs: list[tuple[str, str]], api: ListApi) -> list[tuple[str, str]]:
    return [pair for pair in pairs if api.parameter_role(pair[0]) is not ParameterRole.WINDOW]


def _canonical_pairs(listing: list[tuple[str, str]], api: ListApi) -> list[tuple[str, str]]:
    """Return the pairs of *listing* in their order, without those that only spell out a default."""
    dropped = _find_defaults(listing, api)
    kept = [pair for pair in listing if pair not in dropped]
    kept.sort(key=lambda pair: (pair[0], pair[1] if api.parameter_role(pair[0]) is ParameterRole.SET else ""))
    return kept


def _decode_pairs(raw: str) -> list[tuple[str, str]] | UnclearQuery:
    if ";" in raw:
        return UnclearQuery("semicolon")  # Glance splits there, other servers don't
    if not raw.isascii() or _BAD_ESCAPE.search(raw):
        return UnclearQuery("escape")
    pairs = []
    for piece in filter(None, raw.split("&")):
        name, equals, value = piece.partition("=")
        if not equals:
            return UnclearQuery("no-value")
        try:
            pair = (_unescape(name), _unescape(value))
        except UnicodeDecodeError:
            return UnclearQuery("not-utf-8")
        if not pair[0] or _CONTROL_CHARACTER.search(pair[0]) or _CONTROL_CHARACTER.search(pair[1]):
            return UnclearQuery("control-character" if pair[0] else "no-name")
        pairs.append(pair)
    return pairs


def _unescape(text: str) -> str:
    spaced = text.replace("+", " ")
    return unquote_to_bytes(spaced).decode() if "%" in spaced else spaced


def _parse_window(pairs: list[tuple[str, str]]) -> Window | UnclearQuery:
    limits = [value for name, value in pairs if name == "limit"]
    markers = [value for name, value in pairs if name == "marker"]
    if len(limits) > 1:
        return UnclearQuery("two-limits")
    if len(markers) > 1:
        return UnclearQuery("two-markers")
    if limits and not _LIMIT.fullmatch(limits[0]):
        return UnclearQuery("limit")
    if markers and not 0 < len(markers[0]) <= _MAX_MARKER_CHARS:
        return UnclearQuery("marker")
    return Window(int(limits[0]) if limits else None, markers[0] if markers else None)


def _find_defaults(listing: list[tuple[str, str]], api: ListApi) -> set[tuple[str, str]]:
    """Return the pairs that only spell out a default.

    Beside `sort` they are an error upstream, and one repeated is matched with its partner by position: then they stay.
    """
    values: dict[str, list[str]] = {"sort": [], "sort_key": [], "sort_dir": []}
    for name, value in listing:
        if name in values:
            values[name].append(value)
    if values["sort"] or len(values["sort_key"]) > 1 or len(values["sort_dir"]) > 1:
        return set()
    return {(name, default) for name, default in api.query_defaults if values.get(name) == [default]}
