"""Spans, windows, and the gaps between them.

A span is the run of images after some marker, as the upstream gave it. A window is what a caller asked for. Whether the
spans at hand answer a window, and what is missing, is decided here.

Positions are counted in rows: a policy may hide some of the rows that the upstream counts towards `limit`, so a page
can be short and yet not be the last. Such a span can't be cut, for nobody knows where in it the hidden rows were.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import field
from math import inf
from typing import Final

from proxy.core.values import immutable

HEAD: Final = ""  # the marker that stands before the first image of a listing
_MAX_HOPS: Final = 1024


@immutable
class Span:
    """The images that follow *after*, up to the marker *end*, or to the end of the listing where *end* is None.

    *body* holds the images' own bytes from the first to the last, separators included; image i stands at
    `body[starts[i]:ends[i]]`. *asked* is the `limit` it was fetched with. *fetched_at* (epoch seconds) is when the
    request was sent; the span is fresh for *lifetime_s* from then. *generation* stands for the invalidations known
    when the fetch began. *nulls* says that an image lacks one of the listing's sort keys; *unlinked* that this list
    comes without `next`, so that a short run may be the last one and may not: only an empty one is the end.
    *known_as* is a digest that identifies the span, of one that was read from a store; empty for any other.
    """

    after: str
    end: str | None
    ids: tuple[str, ...]
    body: bytes
    starts: Sequence[int]
    ends: Sequence[int]
    asked: int
    fetched_at: float
    lifetime_s: float
    generation: str = ""
    nulls: bool = False
    unlinked: bool = False
    known_as: bytes = field(default=b"", compare=False)

    @property
    def _short(self) -> bool:
        return self.end is not None and len(self.ids) < self.asked

    @property
    def hides(self) -> bool:
        """Whether rows were hidden: fewer images than asked for, and yet a `next`."""
        return self._short and not self.unlinked

    @property
    def stops(self) -> bool:
        """Whether a page that reaches the end of this span is complete, full or not."""
        return self.end is None or (self._short and self.unlinked)

    @property
    def whole(self) -> bool:
        """Whether this span can't be cut, but only be given as the page it was."""
        return self.hides or self.nulls

    @property
    def rows(self) -> int:
        """How many rows of a page the whole span fills."""
        return self.asked if self.hides else len(self.ids)

    @property
    def size_bytes(self) -> int:
        """About what the span takes in memory."""
        return len(self.body) + 200 * len(self.ids) + 800


@immutable
class Piece:
    """A span from its image number *start* on."""

    span: Span
    start: int

    @property
    def count(self) -> int:
        """How many images the piece has."""
        return len(self.span.ids) - self.start

    @property
    def reach(self) -> float:
        """How many rows of a window it can fill, at most; `inf` where the listing ends with it."""
        return inf if self.span.end is None else self.count


@immutable
class Part:
    """The images `start:stop` of a span, as they go into a page."""

    span: Span
    start: int
    stop: int


@immutable
class Page:
    """A window that is answered: its *parts* in order, and the marker of the next page, None on the last one."""

    parts: tuple[Part, ...]
    next_marker: str | None


@immutable
class Gap:
    """What a window still lacks: *count* rows after the marker *after*, behind the *pieces* that can be used."""

    after: str
    count: int
    pieces: tuple[Piece, ...]


Lookup = Callable[[str], Piece | None]


def chosen(pieces: Sequence[Piece], *, least: int) -> Piece | None:
    """Return which of *pieces* to go on with, all of which follow the same marker; None where there is none.

    Those that have *least* images or end the listing go first; among equals the one fetched latest, then the first.
    """
    return max(pieces, key=lambda each: (each.reach >= least, each.span.fetched_at), default=None)


def chain(after: str, count: int, lookup: Lookup, *, most: int = _MAX_HOPS) -> list[Piece]:
    """Return the pieces, *most* of them, that follow the marker *after* without a gap, until they hold *count* images.

    *lookup* gives the piece that begins right after a marker. A piece without images counts only where the listing
    ends or where it leads on to another marker.
    """
    pieces: list[Piece] = []
    for _ in range(most):
        piece = lookup(after)
        if piece is None or (piece.count == 0 and piece.span.end == after):
            break
        pieces.append(piece)
        count -= piece.count
        if piece.span.end is None or count <= 0:
            break
        after = piece.span.end
    return pieces


def cover(after: str, limit: int, pieces: Sequence[Piece], *, joinable: bool) -> Page | Gap:
    """Return the page of *limit* rows after the marker *after*, or the gap that *pieces* leave.

    Without *joinable* (a sort key under which images move) a page comes from one span or not at all: between two
    fetches an image may have moved out of the one and into the other.
    """
    parts: list[Part] = []
    used: list[Piece] = []
    seen: set[str] = set()
    left = limit
    for piece in pieces:
        span = piece.span
        if span.whole and (piece.start or span.rows > left or (span.nulls and span.asked != left)):
            break
        taken = span.ids[piece.start : piece.start + left]
        if used and not seen.isdisjoint(taken):
            # The listing changed between two fetches: only the newer of the two spans is still to be believed.
            return Gap(after, limit, ())
        parts.append(Part(span, piece.start, piece.start + len(taken)))
        used.append(piece)
        left -= span.rows if span.hides else len(taken)
        if left <= 0 or span.stops:
            return Page(tuple(parts), _next_marker(parts[-1], left))
        if not joinable:
            return Gap(after, limit, ())
        seen.update(taken)
    missing_after = used[-1].span.end if used else after
    assert missing_after is not None
    return Gap(missing_after, left, tuple(used))


def _next_marker(last: Part, left: int) -> str | None:
    """Return the marker in the upstream's `next` for a page that ends with *last*.

    Glance gives a `next` whenever the page is full, even if nothing follows; a full span that came without one shows
    an upstream that knows better.
    """
    span = last.span
    if last.stop == len(span.ids):
        if span.end is not None:
            return span.end
        if left > 0 or len(span.ids) == span.asked:
            return None
    return span.ids[last.stop - 1]
