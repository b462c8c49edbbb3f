"""Which of a listing's spans hold an image.

Spans of a listing overlap: where no page may be joined, one that crosses two spans is fetched anew, and callers with
other limits cut elsewhere. An image may then stand in many spans, and two of them are known here, whatever the order in
which they came:

- the one put last;
- the one that reached farthest behind the image when that was put, of those that were fresh then and that nothing had
  invalidated, if it reaches farther than the one put last.

So a window that lies in one span can be answered from one span for as long as that is fresh: what is put later takes
its place only if it reaches at least as far. `put.lua` does the same in Redis.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count, repeat

from proxy.core.span import Piece, Span

Home = tuple[str, int]  # the marker that a span starts after, and the position behind the image there


class Homes:
    """Knows in which spans the images of one listing stand."""

    def __init__(self) -> None:
        self._homes: dict[str, tuple[Home, ...]] = {}

    def __len__(self) -> int:
        return len(self._homes)

    def of(self, image_id: str) -> tuple[Home, ...]:
        """Return where the image stands, at most twice: the span put last comes first."""
        return self._homes.get(image_id, ())

    def add(self, span: Span, equal: Callable[[str], Span | None]) -> None:
        """Note that the images of *span* stand in it. *equal* gives the span kept after a marker, if it is as good."""
        if self._homes.keys().isdisjoint(span.ids):  # as almost always: a tenth of the time that a look at each takes
            homes = zip(repeat(span.after), count(1), strict=False)
            self._homes.update(zip(span.ids, zip(homes), strict=False))
            return
        others: dict[str, float] = {}  # by the marker a span starts after: how far it reaches from there
        rows = Piece(span, 0).reach
        for position, image_id in enumerate(span.ids, 1):
            farthest: tuple[Home, ...] = ()
            most = rows - position
            for home in self._homes.get(image_id, ()):
                reach = others.get(home[0])
                if reach is None:
                    other = equal(home[0])
                    reach = others[home[0]] = 0 if other is None else Piece(other, 0).reach
                if reach - home[1] > most:
                    farthest, most = (home,), reach - home[1]
            self._homes[image_id] = ((span.after, position), *farthest)

    def remove(self, span: Span) -> None:
        """Forget that the images of *span* stand in it."""
        for image_id in span.ids:
            left = tuple(home for home in self._homes.get(image_id, ()) if home[0] != span.after)
            if left:
                self._homes[image_id] = left
            else:
                self._homes.pop(image_id, None)
