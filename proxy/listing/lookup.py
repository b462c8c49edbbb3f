"""What storage holds for a list request, and what of that its caller may be given now."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from proxy.auth.token_acceptance import TokenAcceptance
from proxy.core.freshness import Freshness, current_age, span_freshness
from proxy.core.span import Missing, Page, Span, assemble_page
from proxy.errors import StoreUnavailableError
from proxy.listing.request import ListRequest
from proxy.storage.base import FoundSpans, ListingState, SpanStorage


class SpanLookup:
    """Looks spans up in *store* and judges them for one caller. *clock* gives epoch seconds."""

    def __init__(self, store: SpanStorage, acceptance: TokenAcceptance, *, clock: Callable[[], float]) -> None:
        self._store = store
        self._acceptance = acceptance
        self._clock = clock

    async def find(self, request: ListRequest, missing: Missing) -> FoundSpans:
        """Return the stored spans that follow *missing.marker*, none while storage is unavailable."""
        try:
            return await self._store.lookup(
                request.key, missing.marker, missing.count, can_join=request.sort.is_stable, now=self._clock()
            )
        except StoreUnavailableError:
            return FoundSpans((), ListingState(""))

    def assemble(
        self, request: ListRequest, missing: Missing, found: FoundSpans, min_freshness: Freshness
    ) -> Page | Missing:
        """Return the page, or what it lacks, from the slices in *missing* and those in *found* behind them.

        The first slice in *found* below *min_freshness* ends the search: those behind it would leave a hole.
        """
        slices = list(missing.slices)
        for span_slice in found.slices:
            if self.freshness(request, span_slice.span, found.state) < min_freshness:
                break
            slices.append(span_slice)
        return assemble_page(request.marker, request.row_count, slices, can_join=request.sort.is_stable)

    def freshness(self, request: ListRequest, span: Span, state: ListingState) -> Freshness:
        """Return what *span* may be used for: by its age, the caller's directives and the caller's credential."""
        now = self._clock()
        age_s = current_age(span.fetched_at, now=now)
        if request.directives.excludes(age_s=age_s, left_s=span.lifetime_s - age_s):
            return Freshness.EXPIRED
        freshness = span_freshness(span, request.lifetimes, generation=state.generation, now=now)
        return self._acceptance.limit_freshness(freshness, request.principal, fetched_at=span.fetched_at)


def latest_fetch_time(found: FoundSpans, marker: str) -> float:
    """Return when the newest span that *found* has after *marker* was fetched, epoch seconds.

    `-inf` if it has none, `inf` if storage could not be asked or can't be trusted now.
    """
    if found.uncertainty or not found.state.generation:
        return inf
    return max((each.span.fetched_at for each in found.slices if each.span.marker == marker), default=-inf)
