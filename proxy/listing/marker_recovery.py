"""A marker whose image was deleted since: where to go on instead.

Spans that are too old to answer from still show which images stood before the one that is gone. Any of those that still
exists is a marker from which the same place is reached, once the images before that place are left out: those that the
old span shows there, and those that have come since, by the order of the listing.

Goes on behind a marker whose image is gone, from where it stood; see `proxy.listing.marker_recovery`.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf
from typing import Any, Final

import orjson

from proxy.core.span import HEAD, Gap, Piece, Span
from proxy.core.values import immutable
from proxy.errors import StoreUnavailableError
from proxy.listing.fetcher import Fetcher, Wanted
from proxy.listing.request import ListAsk
from proxy.storage.base import Found, SpanStore

# How far back to look: the nearest first, then in bounds, for a script may have deleted the whole page.
_DISTANCES: Final = (1, 4, 16, 64)


@immutable
class Foothold:
    """A marker to go on from: *marker* stood *distance* images before the one that vanished."""

    marker: str
    distance: int


def footholds(holding: Piece) -> list[Foothold]:
    """Return where to go on from, nearest first, given the span that held the vanished image, from behind it on."""
    vanished = holding.start - 1
    inside = [Foothold(holding.span.ids[vanished - d], d) for d in _DISTANCES if d <= vanished]
    return [*inside, Foothold(holding.span.after, vanished + 1)]


def continued(span: Span, holding: Piece, *, after: str, order: Sequence[tuple[str, bool]] = ()) -> Span | None:
    """Return *span*, fetched from a foothold, as the span that follows the vanished marker *after*.

    *order* are the sort keys, each with whether it descends. None where it does not reach beyond what stands before
    that marker.
    """
    before = set(holding.span.ids[: holding.start])
    vanished = _image(holding.span, holding.start - 1)
    known = [position for position, image_id in enumerate(span.ids, 1) if image_id in before]
    cut = known[-1] if known else 0
    while cut < len(span.ids) and _precedes(_image(span, cut), vanished, order):
        cut += 1
    if cut and cut == len(span.ids) and span.end is not None:
        return None
    first = span.starts[cut] if cut < len(span.ids) else len(span.body)
    return replace(
        span,
        after=after,
        ids=span.ids[cut:],
        body=span.body[first:],
        starts=array("I", (start - first for start in span.starts[cut:])),
        ends=array("I", (end - first for end in span.ends[cut:])),
        asked=max(span.asked - cut, 0),
    )


def _image(span: Span, at: int) -> dict[str, Any]:
    try:
        image: dict[str, Any] = orjson.loads(span.body[span.starts[at] : span.ends[at]])
    except orjson.JSONDecodeError:  # a number that is too large for it, or more levels than it goes down
        return {}
    return image


def _precedes(image: dict[str, Any], other: dict[str, Any], order: Sequence[tuple[str, bool]]) -> bool:
    for key, descending in order:
        one, two = image.get(key), other.get(key)
        if not (isinstance(one, str) and isinstance(two, str)):
            return False
        if one != two:
            return (one > two) is descending
    return False


LOST: Final = frozenset({400, 403, 404})  # what a marker is answered with that is gone, or hidden from the caller
_MAX_FOOTHOLDS: Final = 24


class Footing:
    """Finds in *store* where images stood. *longest* is the longest page that the upstream gives."""

    def __init__(self, fetcher: Fetcher, store: SpanStore, *, longest: int, clock: Callable[[], float]) -> None:
        self._fetcher = fetcher
        self._store = store
        self._longest = longest
        self._clock = clock

    async def shows(self, ask: ListAsk) -> bool:
        """Return whether the marker of *ask* is an image that this listing has shown, or there is no marker."""
        return ask.after == HEAD or await self._holding(ask, ask.after) is not None

    async def behind(self, ask: ListAsk, gap: Gap, found: Found) -> Span | None:
        """Return the span behind a marker that the upstream no longer knows, if a stored span knows where it stood."""
        holding = back = await self._holding(ask, gap.after)
        if holding is None or ask.key.page is not None or not ask.sort.immovable:
            return None  # where images move, one that stood before the marker may stand behind it now
        steps = footholds(holding)
        for _ in range(_MAX_FOOTHOLDS):
            if not steps:
                back = await self._holding(ask, back.span.after) if back else None
                if back is None:
                    return None
                steps = footholds(back)
            foothold = steps.pop(0)
            size = min(gap.count + foothold.distance, self._longest)
            wanted = Wanted(foothold.marker, size, found.state.generation, inf, found.join_after)
            fetched, _ = await self._fetcher.fetched(ask, wanted, purpose="vanished-marker")
            if fetched.span is None:
                if fetched.status not in LOST:
                    return None
                continue
            span = continued(fetched.span, holding, after=gap.after, order=ask.sort.order)
            if span is not None:
                await self._fetcher.store(ask, span)
                return span
            assert fetched.span.end is not None
            steps = [Foothold(fetched.span.end, 0)]  # all of it stands before the marker, and leads there
        return None

    async def _holding(self, ask: ListAsk, image_id: str) -> Piece | None:
        try:
            return await self._store.holding(ask.key, image_id, now=self._clock())
        except StoreUnavailableError:
            return None
