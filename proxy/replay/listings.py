"""How long listings were, and which images stood where, as far as a log tells.

A log tells no images, but each `marker` in it is the last image of a page that went before. So, in each listing:

- a marker stands at the end of the page of the same `limit` that its caller was given last, else of any page of its
  caller's; one that follows no page stands behind everything known of the listing;
- a page from whose end another went on was full;
- the last page of a listing was not, and the listing ends in it, unless its body was as large as those of full pages:
  then the listing goes on behind it for as long as anyone reads ahead. One with hardly a body was empty.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from proxy.core.list_query import ListQuery, parse_list_query
from proxy.core.routes import Route, classify_path
from proxy.listing.request import PageSizes
from proxy.replay.entries import Entry

_LISTED: Final = frozenset({200, 304, 429, 500, 502, 503, 504})  # answered with a list, or would have been by now
_AS_LARGE: Final = 0.9  # bodies of full pages differ in size, by the names and properties of their images
_EMPTY_BYTES: Final = 300  # a page without images is smaller, any image larger

# Whose listing: who shares it, path, canonical query.
Name = tuple[str, str, str]


@dataclass(slots=True)
class ObservedListing:
    """What is known of one listing; places are counted in rows from its head.

    *markers* are the places behind markers, *next_markers* those at which another page began. *given* is where the page
    ended that a caller was given last, by caller and by its rows. *furthest* is the page that reached furthest: its
    end, its rows, the size of its body. *sizes* are those of bodies by the page's end and rows.
    """

    markers: dict[str, int] = field(default_factory=dict)
    next_markers: set[int] = field(default_factory=set)
    given: dict[tuple[str, int], int] = field(default_factory=dict)
    furthest: tuple[int, int, int | None] = (0, 0, None)
    sizes: dict[tuple[int, int], int] = field(default_factory=dict)

    def observe(self, caller: str, marker: str | None, rows: int, size: int | None) -> None:
        """*caller* was given a page of *rows* after *marker*, *size* bytes long."""
        begin = 0 if marker is None else self._place(caller, marker, rows)
        end = begin if size is not None and size < _EMPTY_BYTES else begin + rows
        self.given[caller, rows] = self.given[caller, 0] = end
        if end >= self.furthest[0]:
            self.furthest = (end, end - begin, size)
        if size is not None:
            self.sizes[end, rows] = size

    def _place(self, caller: str, marker: str, rows: int) -> int:
        if marker not in self.markers:
            given = self.given.get((caller, rows)) or self.given.get((caller, 0))
            self.markers[marker] = given or self.furthest[0] or 1
        self.next_markers.add(self.markers[marker])
        return self.markers[marker]

    def length(self, beyond: int) -> int:
        """Return how many rows the listing has; where it goes on unseen, by *beyond* rows."""
        end, rows, size = self.furthest
        if end in self.next_markers or not rows:
            return end
        full = sorted(each for (at, count), each in self.sizes.items() if count == rows and at in self.next_markers)
        if size is not None and full and size >= _AS_LARGE * full[len(full) // 2]:
            return end + beyond
        return end - 1


class ObservedListings:
    """The listings in a log. *sizes* are the upstream's page sizes, *sharer* says who shares a caller's listings."""

    def __init__(self, sizes: PageSizes, *, sharer: Callable[[str], str]) -> None:
        self._sizes = sizes
        self._sharer = sharer
        self._known: dict[Name, ObservedListing] = {}
        self._images: dict[Name, list[str]] = {}

    def learn(self, entry: Entry) -> None:
        """Take from *entry* what it tells."""
        query = is_listed(entry)
        if query is None or entry.status not in _LISTED:
            return
        rows = self._sizes.row_count(query.window, entry.path)
        size = entry.size if entry.status == 200 and entry.method == "GET" else None
        name = (self._sharer(entry.caller), entry.path, query.canonical)
        self._known.setdefault(name, ObservedListing()).observe(entry.caller, query.window.marker, rows, size)

    def page(self, name: Name, marker: str | None, rows: int) -> tuple[list[str], bool] | None:
        """Return the ids of a page and whether another may follow, None where *marker* is none of the listing's."""
        images = self._listing(name)
        begin = 0 if marker is None else self._behind(name, images, marker)
        if begin is None:
            return None
        page = images[begin : begin + rows]
        return page, len(page) == rows and rows > 0

    def resolve_marker(self, name: Name, marker: str) -> str:
        """Return the image that stands where *marker* does: a listing that changed had several there, one by one."""
        images = self._listing(name)
        behind = self._behind(name, images, marker)
        return images[behind - 1] if behind else marker

    def _listing(self, name: Name) -> list[str]:
        images = self._images.get(name)
        if images is None:
            known = self._known.get(name, ObservedListing())
            length = max([known.length(self._sizes.max_page), *known.markers.values()])
            images = self._images[name] = [f"image-{place}" for place in range(1, length + 1)]
            for marker, place in known.markers.items():
                images[place - 1] = marker
        return images

    def _behind(self, name: Name, images: list[str], marker: str) -> int | None:
        known = self._known.get(name)
        if known is not None and marker in known.markers:
            return known.markers[marker]
        made, _, number = marker.partition("-")
        return int(number) if made == "image" and number.isdecimal() and int(number) <= len(images) else None


def is_listed(entry: Entry) -> ListQuery | None:
    """Return what list *entry* asks for, None where it asks for none that the proxy could keep."""
    if entry.method not in ("GET", "HEAD") or classify_path(entry.path) not in (Route.LIST, Route.CLOUDIMAGES_LIST):
        return None
    query = parse_list_query(entry.query)
    return query if isinstance(query, ListQuery) else None
