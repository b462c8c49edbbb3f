"""Goes on behind a marker whose image is gone, from where it stood; see `proxy.listing.marker_recovery`."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Final

from proxy.core.span import HEAD, Gap, Piece, Span
from proxy.errors import StoreUnavailableError
from proxy.listing.fetcher import Fetcher, Wanted
from proxy.listing.marker_recovery import Foothold, continued, footholds
from proxy.listing.request import ListAsk
from proxy.storage.base import Found, SpanStore

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
