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

from proxy.core.span import LIST_START, Missing, Span, SpanSlice
from proxy.core.values import immutable
from proxy.errors import StoreUnavailableError
from proxy.listing.fetcher import SpanFetcher, SpanRequest
from proxy.listing.request import ListRequest
from proxy.storage.base import FoundSpans, SpanStore

# How far back to look: the nearest first, then in bounds, for a script may have deleted the whole page.
_DISTANCES: Final = (1, 4, 16, 64)


@immutable
class RecoveryPoint:
    """A marker to go on from: *marker* stood *distance* images before the one that vanished."""

    marker: str
    distance: int


def recovery_points(holder: SpanSlice) -> list[RecoveryPoint]:
    """Return where to go on from, nearest first, given the span that held the vanished image, from behind it on."""
    vanished = holder.start - 1
    inside = [RecoveryPoint(holder.span.ids[vanished - d], d) for d in _DISTANCES if d <= vanished]
    return [*inside, RecoveryPoint(holder.span.marker, vanished + 1)]


def span_behind_marker(
    span: Span, holder: SpanSlice, *, marker: str, order: Sequence[tuple[str, bool]] = ()
) -> Span | None:
    """Return *span*, fetched from a foothold, as the span that follows the vanished marker *marker*.

    *order* are the sort keys, each with whether it descends. None where it does not reach beyond what stands before
    that marker.
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


LOST_MARKER_STATUSES: Final = frozenset(
    {400, 403, 404}
)  # what a marker is answered with that is gone, or hidden from the caller
_MAX_ATTEMPTS: Final = 24


class MarkerRecovery:
    """Finds in *store* where images stood. *max_page* is the longest page that the upstream gives."""

    def __init__(self, fetcher: SpanFetcher, store: SpanStore, *, max_page: int, clock: Callable[[], float]) -> None:
        self._fetcher = fetcher
        self._store = store
        self._max_page = max_page
        self._clock = clock

    async def has_shown(self, request: ListRequest) -> bool:
        """Return whether the marker of *request* is an image that this listing has shown, or there is no marker."""
        return request.marker == LIST_START or await self._find_holder(request, request.marker) is not None

    async def recover(self, request: ListRequest, missing: Missing, found: FoundSpans) -> Span | None:
        """Return the span behind a marker that the upstream no longer knows, if a stored span knows where it stood."""
        holder = back = await self._find_holder(request, missing.marker)
        if holder is None or request.key.page_window is not None or not request.sort.is_stable:
            return None  # where images move, one that stood before the marker may stand behind it now
        steps = recovery_points(holder)
        for _ in range(_MAX_ATTEMPTS):
            if not steps:
                back = await self._find_holder(request, back.span.marker) if back else None
                if back is None:
                    return None
                steps = recovery_points(back)
            foothold = steps.pop(0)
            size = min(missing.count + foothold.distance, self._max_page)
            span_request = SpanRequest(foothold.marker, size, found.state.generation, inf, found.join_after)
            outcome, _ = await self._fetcher.fetch(request, span_request, purpose="vanished-marker")
            if outcome.span is None:
                if outcome.status not in LOST_MARKER_STATUSES:
                    return None
                continue
            span = span_behind_marker(outcome.span, holder, marker=missing.marker, order=request.sort.total_order)
            if span is not None:
                await self._fetcher.store(request, span)
                return span
            assert outcome.span.next_marker is not None
            steps = [RecoveryPoint(outcome.span.next_marker, 0)]  # all of it stands before the marker, and leads there
        return None

    async def _find_holder(self, request: ListRequest, image_id: str) -> SpanSlice | None:
        try:
            return await self._store.find_image(request.key, image_id, now=self._clock())
        except StoreUnavailableError:
            return None
