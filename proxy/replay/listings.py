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

from proxy.core.list_api import LIST_APIS
from proxy.core.list_query import ListQuery, parse_list_query
from proxy.core.routes import Route, classify_path
from proxy.listing.request import PageSizes
from proxy.replay.entries import LogEntry

_LIST_STATUSES: Final = frozenset(
    {200, 304, 429, 500, 502, 503, 504}
)  # answered with a list, or would have been by now
_FULL_PAGE_SIZE_RATIO: Final = 0.9  # bodies of full pages differ in size, by the names and properties of their images
_MIN_NONEMPTY_PAGE_BYTES: Final = 300  # a page without images is smaller, any image larger

# Whose listing: who shares it, path, canonical query.
ListingKey = tuple[str, str, str]


@dataclass(slots=True)
class ObservedListing:
    """What is known of one listing; places are counted in rows from its head.

    *marker_positions* are the places behind markers, *continued_positions* those at which another page began.
    *last_page_ends* is where the page ended that a caller was given last, by caller and by its rows. *furthest_page* is
    the page that reached furthest: its end, its rows, the size of its body. *body_sizes* are those of bodies by the
    page's end and rows.
    """

    marker_positions: dict[str, int] = field(default_factory=dict)
    continued_positions: set[int] = field(default_factory=set)
    last_page_ends: dict[tuple[str, int], int] = field(default_factory=dict)
    furthest_page: tuple[int, int, int | None] = (0, 0, None)
    body_sizes: dict[tuple[int, int], int] = field(default_factory=dict)

    def observe(self, caller: str, marker: str | None, rows: int, body_bytes: int | None) -> None:
        """*caller* was given a page of *rows* after *marker*, *body_bytes* bytes long."""
        begin = 0 if marker is None else self._marker_position(caller, marker, rows)
        end = begin if body_bytes is not None and body_bytes < _MIN_NONEMPTY_PAGE_BYTES else begin + rows
        self.last_page_ends[caller, rows] = self.last_page_ends[caller, 0] = end
        if end >= self.furthest_page[0]:
            self.furthest_page = (end, end - begin, body_bytes)
        if body_bytes is not None:
            self.body_sizes[end, rows] = body_bytes

    def _marker_position(self, caller: str, marker: str, rows: int) -> int:
        if marker not in self.marker_positions:
            given = self.last_page_ends.get((caller, rows)) or self.last_page_ends.get((caller, 0))
            self.marker_positions[marker] = given or self.furthest_page[0] or 1
        self.continued_positions.add(self.marker_positions[marker])
        return self.marker_positions[marker]

    def estimate_length(self, unseen_rows: int) -> int:
        """Return how many rows the listing has; where it goes on unseen, by *unseen_rows* rows."""
        end, rows, size = self.furthest_page
        if end in self.continued_positions or not rows:
            return end
        full = sorted(
            each for (at, count), each in self.body_sizes.items() if count == rows and at in self.continued_positions
        )
        if size is not None and full and size >= _FULL_PAGE_SIZE_RATIO * full[len(full) // 2]:
            return end + unseen_rows
        return end - 1


class ObservedListings:
    """The listings in a log. *page_sizes* are the upstream's page sizes, *partition_of* says who shares a caller's
    listings.
    """

    def __init__(self, page_sizes: PageSizes, *, partition_of: Callable[[str], str]) -> None:
        self._page_sizes = page_sizes
        self._partition_of = partition_of
        self._observed: dict[ListingKey, ObservedListing] = {}
        self._image_ids: dict[ListingKey, list[str]] = {}

    def observe(self, entry: LogEntry) -> None:
        """Take from *entry* what it tells."""
        query = list_query_of(entry)
        if query is None or entry.status not in _LIST_STATUSES:
            return
        rows = self._page_sizes.row_count(query.window, LIST_APIS[entry.path])
        size = entry.body_bytes if entry.status == 200 and entry.method == "GET" else None
        name = (self._partition_of(entry.caller), entry.path, query.canonical)
        self._observed.setdefault(name, ObservedListing()).observe(entry.caller, query.window.marker, rows, size)

    def page(self, key: ListingKey, marker: str | None, rows: int) -> tuple[list[str], bool] | None:
        """Return the ids of a page and whether another may follow, None where *marker* is none of the listing's."""
        images = self._image_ids_of(key)
        begin = 0 if marker is None else self._position_after(key, images, marker)
        if begin is None:
            return None
        page = images[begin : begin + rows]
        return page, len(page) == rows and rows > 0

    def resolve_marker(self, key: ListingKey, marker: str) -> str:
        """Return the image that stands where *marker* does: a listing that changed had several there, one by one."""
        images = self._image_ids_of(key)
        behind = self._position_after(key, images, marker)
        return images[behind - 1] if behind else marker

    def _image_ids_of(self, key: ListingKey) -> list[str]:
        images = self._image_ids.get(key)
        if images is None:
            known = self._observed.get(key, ObservedListing())
            length = max([known.estimate_length(self._page_sizes.max_page), *known.marker_positions.values()])
            images = self._image_ids[key] = [f"image-{place}" for place in range(1, length + 1)]
            for marker, place in known.marker_positions.items():
                images[place - 1] = marker
        return images

    def _position_after(self, key: ListingKey, images: list[str], marker: str) -> int | None:
        known = self._observed.get(key)
        if known is not None and marker in known.marker_positions:
            return known.marker_positions[marker]
        made, _, number = marker.partition("-")
        return int(number) if made == "image" and number.isdecimal() and int(number) <= len(images) else None


def list_query_of(entry: LogEntry) -> ListQuery | None:
    """Return what list *entry* asks for, None where it asks for none that the proxy could keep."""
    if entry.method not in ("GET", "HEAD") or classify_path(entry.path) not in (Route.LIST, Route.CLOUDIMAGES_LIST):
        return None
    query = parse_list_query(entry.query, LIST_APIS[entry.path])
    return query if isinstance(query, ListQuery) else None
