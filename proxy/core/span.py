"""Spans, and how pages are assembled from them.

A span is a run of images after a marker, as the upstream gave it. A window (`limit` and `marker`) is what a caller asks
for. `assemble_page` decides whether spans hold the page of a window, and what is missing.

Positions count rows. A policy may hide rows that the upstream counts towards `limit`, so a page may be short and not be
the last. Such a span can't be cut: nobody knows where in it the hidden rows stood.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import field
from math import inf
from typing import Final

from proxy.core.values import immutable

LIST_START: Final = ""  # the marker before the first image
_MAX_SLICES: Final = 1024


@immutable
class Span:
    """The images after *marker*, up to *next_marker*, or to the end of the listing if that is None.

    *body* holds the images' own bytes with their separators; image i is `body[starts[i]:ends[i]]`. *limit* is what the
    span was fetched with. The request was sent at *fetched_at* (epoch seconds), and the span is fresh for *lifetime_s*
    from then. *generation* stands for the invalidations known when the fetch began. *has_nulls*: an image lacks one of
    the sort keys. *without_next*: this API gives no `next`, so a short run may or may not be the last; only an empty
    one is. *digest* identifies a span that was read from storage; else it is empty.
    """

    marker: str
    next_marker: str | None
    ids: tuple[str, ...]
    body: bytes
    starts: Sequence[int]
    ends: Sequence[int]
    limit: int
    fetched_at: float
    lifetime_s: float
    generation: str = ""
    has_nulls: bool = False
    without_next: bool = False
    digest: bytes = field(default=b"", compare=False)

    @property
    def _is_short(self) -> bool:
        return self.next_marker is not None and len(self.ids) < self.limit

    @property
    def hides_rows(self) -> bool:
        """Fewer images than asked for, and yet a `next`: rows were hidden."""
        return self._is_short and not self.without_next

    @property
    def completes_page(self) -> bool:
        """A page that reaches the end of this span is complete, full or not."""
        return self.next_marker is None or (self._is_short and self.without_next)

    @property
    def is_indivisible(self) -> bool:
        """The span can't be cut: it can only be served as the page it was."""
        return self.hides_rows or self.has_nulls

    @property
    def row_count(self) -> int:
        """How many rows of a page the span fills."""
        return self.limit if self.hides_rows else len(self.ids)

    @property
    def size_bytes(self) -> int:
        """Approximate size in memory."""
        return len(self.body) + 200 * len(self.ids) + 800


@immutable
class SpanSlice:
    """A span from its image *start* on."""

    span: Span
    start: int

    @property
    def count(self) -> int:
        """How many images it has."""
        return len(self.span.ids) - self.start

    @property
    def max_rows(self) -> float:
        """How many rows it can fill at most; `inf` if the listing ends with it."""
        return inf if self.span.next_marker is None else self.count


@immutable
class PagePart:
    """The images `start:stop` of a span, as part of a page."""

    span: Span
    start: int
    stop: int


@immutable
class Page:
    """A page: its *parts* in order, and the marker for the next page, None on the last one."""

    parts: tuple[PagePart, ...]
    next_marker: str | None


@immutable
class Missing:
    """What a page lacks: *count* rows after *marker*, behind the *slices* that can be used."""

    marker: str
    count: int
    slices: tuple[SpanSlice, ...]


FindSlice = Callable[[str], SpanSlice | None]


def choose_slice(slices: Sequence[SpanSlice], *, min_rows: int) -> SpanSlice | None:
    """Choose among *slices* that follow the same marker: first those with *min_rows* or the end, then the newest."""
    return max(slices, key=lambda each: (each.max_rows >= min_rows, each.span.fetched_at), default=None)


def follow_slices(marker: str, count: int, find_slice: FindSlice, *, max_slices: int = _MAX_SLICES) -> list[SpanSlice]:
    """Return the pieces, *max_slices* of them, that follow the marker *marker* without a gap, until they hold *count*
    images.

    *find_slice* gives the piece that begins right after a marker. A piece without images counts only where the listing
    ends or where it leads on to another marker.
    """
    slices: list[SpanSlice] = []
    for _ in range(max_slices):
        span_slice = find_slice(marker)
        if span_slice is None or (span_slice.count == 0 and span_slice.span.next_marker == marker):
            break
        slices.append(span_slice)
        count -= span_slice.count
        if span_slice.span.next_marker is None or count <= 0:
            break
        marker = span_slice.span.next_marker
    return slices


def assemble_page(marker: str, limit: int, slices: Sequence[SpanSlice], *, can_join: bool) -> Page | Missing:
    """Return the page of *limit* rows after the marker *marker*, or the gap that *slices* leave.

    Without *can_join* (a sort key under which images move) a page comes from one span or not at all: between two
    fetches an image may have moved out of the one and into the other.
    """
    parts: list[PagePart] = []
    used_slices: list[SpanSlice] = []
    seen: set[str] = set()
    left = limit
    for span_slice in slices:
        span = span_slice.span
        if span.is_indivisible and (
            span_slice.start or span.row_count > left or (span.has_nulls and span.limit != left)
        ):
            break
        taken = span.ids[span_slice.start : span_slice.start + left]
        if used_slices and not seen.isdisjoint(taken):
            # The listing changed between two fetches: only the newer of the two spans is still to be believed.
            return Missing(marker, limit, ())
        parts.append(PagePart(span, span_slice.start, span_slice.start + len(taken)))
        used_slices.append(span_slice)
        left -= span.row_count if span.hides_rows else len(taken)
        if left <= 0 or span.completes_page:
            return Page(tuple(parts), _next_marker(parts[-1], left))
        if not can_join:
            return Missing(marker, limit, ())
        seen.update(taken)
    missing_after = used_slices[-1].span.next_marker if used_slices else marker
    assert missing_after is not None
    return Missing(missing_after, left, tuple(used_slices))


def _next_marker(last: PagePart, left: int) -> str | None:
    """Return the marker in the upstream's `next` for a page that ends with *last*.

    Glance gives a `next` whenever the page is full, even if nothing follows; a full span that came without one shows
    an upstream that knows better.
    """
    span = last.span
    if last.stop == len(span.ids):
        if span.next_marker is not None:
            return span.next_marker
        if left > 0 or len(span.ids) == span.limit:
            return None
    return span.ids[last.stop - 1]
