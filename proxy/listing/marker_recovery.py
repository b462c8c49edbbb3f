"""Pages on behind a marker whose image was deleted, from where that image stood.

Spans that are too old to serve still show which images stood before the deleted one. Any of those that still exists is
a marker that leads to the same place, once the images before that place are dropped: those that the old span shows
there, and newer ones that the listing's order puts there.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf
from typing import Any, Final

import orjson

from proxy.core.span import LIST_START, Missing, Span, SpanSlice
from proxy.core.values import immutable
from proxy.errors import StoreUnavailableError
from proxy.listing.fetcher import SpanFetcher, SpanRequest
from proxy.listing.request import ListRequest
from proxy.storage.base import FoundSpans, SpanStorage

# How far back to look, nearest first: a script may have deleted the whole page.
_DISTANCES: Final = (1, 4, 16, 64)


@immutable
class RecoveryPoint:
    """*marker* stood *distance* images before the one that vanished."""

    marker: str
    distance: int


def recovery_points(holder: SpanSlice) -> list[RecoveryPoint]:
    """Return markers to go on from, nearest first. *holder* is the span that held the vanished image, cut behind it."""
    vanished = holder.start - 1
    inside = [RecoveryPoint(holder.span.ids[vanished - d], d) for d in _DISTANCES if d <= vanished]
    return [*inside, RecoveryPoint(holder.span.marker, vanished + 1)]


def span_behind_marker(
    span: Span, holder: SpanSlice, *, marker: str, order: Sequence[tuple[str, bool]] = ()
) -> Span | None:
    """Return *span*, fetched from a recovery point, as the span behind the vanished *marker*.

    *order* are the sort keys, each with whether it descends. None if *span* does not reach beyond the images that stood
    before the marker.
    """
    before = set(holder.span.ids[: holder.start])
    vanished = _parse_image(holder.span, holder.start - 1)
    known = [position for position, image_id in enumerate(span.ids, 1) if image_id in before]
    cut = known[-1] if known else 0
    while cut < len(span.ids) and _precedes(_parse_image(span, cut), vanished, order):
        cut += 1
    if cut and cut == len(span.ids) and span.next_marker is not None:
        return None
    first = span.starts[cut] if cut < len(span.ids) else len(span.body)
    return replace(
        span,
        marker=marker,
        ids=span.ids[cut:],
        body=span.body[first:],
        starts=array("I", (start - first for start in span.starts[cut:])),
        ends=array("I", (end - first for end in span.ends[cut:])),
        limit=max(span.limit - cut, 0),
    )


def _parse_image(span: Span, at: int) -> dict[str, Any]:
    try:
        image: dict[str, Any] = orjson.loads(span.body[span.starts[at] : span.ends[at]])
    except orjson.JSONDecodeError:  # a number too large or nesting too deep for orjson
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


# What upstreams answer to a marker whose image is gone or hidden from the caller.
LOST_MARKER_STATUSES: Final = frozenset({400, 403, 404})
_MAX_ATTEMPTS: Final = 24


class MarkerRecovery:
    """Finds in *store* where deleted images stood. *max_page* is the upstream's longest page, in rows."""

    def __init__(self, fetcher: SpanFetcher, store: SpanStorage, *, max_page: int, clock: Callable[[], float]) -> None:
        self._fetcher = fetcher
        self._store = store
        self._max_page = max_page
        self._clock = clock

    async def has_shown(self, request: ListRequest) -> bool:
        """Return whether the request has no marker, or this listing has shown its image."""
        return request.marker == LIST_START or await self._find_holder(request, request.marker) is not None

    async def recover(self, request: ListRequest, missing: Missing, found: FoundSpans) -> Span | None:
        """Fetch the span behind a marker that the upstream no longer knows; None if no stored span shows its place."""
        holder = back = await self._find_holder(request, missing.marker)
        if holder is None or request.key.page_window is not None or not request.sort.is_stable:
            return None  # images that move: one from before the marker may stand behind it now
        points = recovery_points(holder)
        for _ in range(_MAX_ATTEMPTS):
            if not points:
                back = await self._find_holder(request, back.span.marker) if back else None
                if back is None:
                    return None
                points = recovery_points(back)
            point = points.pop(0)
            size = min(missing.count + point.distance, self._max_page)
            span_request = SpanRequest(point.marker, size, found.state.generation, inf, found.join_after)
            outcome, _ = await self._fetcher.fetch(request, span_request, purpose="marker_recovery")
            if outcome.span is None:
                if outcome.status not in LOST_MARKER_STATUSES:
                    return None
                continue
            span = span_behind_marker(outcome.span, holder, marker=missing.marker, order=request.sort.total_order)
            if span is not None:
                await self._fetcher.store(request, span)
                return span
            assert outcome.span.next_marker is not None
            points = [RecoveryPoint(outcome.span.next_marker, 0)]  # all of it stood before the marker: go on behind it
        return None

    async def _find_holder(self, request: ListRequest, image_id: str) -> SpanSlice | None:
        try:
            return await self._store.find_image(request.key, image_id, now=self._clock())
        except StoreUnavailableError:
            return None
