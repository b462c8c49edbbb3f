"""What the store has of a window, and what of that a caller may be given.

What a list request is answered with, and how that came about.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf

from proxy.auth.token_acceptance import TokenAcceptance
from proxy.core.cache_status import CacheStatus, FwdReason
from proxy.core.freshness import Freshness, current_age, span_freshness
from proxy.core.messages import Response
from proxy.core.span import Missing, Page, Span, assemble_page
from proxy.core.values import immutable
from proxy.errors import StoreUnavailableError
from proxy.listing.fetcher import FetchOutcome
from proxy.listing.request import ListRequest
from proxy.storage.base import FoundSpans, ListingState, SpanStore


class SpanLookup:
    """Looks into *store* for callers whose *acceptance* are known. *clock* gives epoch seconds."""

    def __init__(self, store: SpanStore, acceptance: TokenAcceptance, *, clock: Callable[[], float]) -> None:
        self._store = store
        self._acceptance = acceptance
        self._clock = clock

    async def find(self, request: ListRequest, missing: Missing) -> FoundSpans:
        """Return what the store has of *missing*; nothing where it can't be asked."""
        try:
            return await self._store.lookup(
                request.key, missing.marker, missing.count, can_join=request.sort.is_stable, now=self._clock()
            )
        except StoreUnavailableError:
            return FoundSpans((), ListingState(""))

    def assemble(
        self, request: ListRequest, missing: Missing, found: FoundSpans, min_freshness: Freshness
    ) -> Page | Missing:
        """Return the page, or what it still lacks, from the pieces of *missing* and the usable ones in *find* behind
        them.

        A piece is usable if its standing is *min_freshness* or higher; after the first that is not, the others don't
        count.
        """
        if not (missing.slices or found.slices):
            return Missing(request.marker, request.row_count, ())
        slices = list(missing.slices)
        for span_slice in found.slices:
            if self.freshness(request, span_slice.span, found.state) < min_freshness:
                break
            slices.append(span_slice)
        return assemble_page(request.marker, request.row_count, slices, can_join=request.sort.is_stable)

    def freshness(self, request: ListRequest, span: Span, state: ListingState) -> Freshness:
        """Return what *span* may be used for in answering *request*; *state* is that of the span's listing."""
        now = self._clock()
        age_s = current_age(span.fetched_at, now=now)
        if request.directives.excludes(age_s=age_s, left_s=span.lifetime_s - age_s):
            return Freshness.EXPIRED
        stands = span_freshness(span, request.lifetimes, generation=state.generation, now=now)
        return self._acceptance.limit_freshness(stands, request.principal, fetched_at=span.fetched_at)


def latest_fetch_time(found: FoundSpans, marker: str) -> float:
    """Return when the latest span that *found* has after the marker *marker* was fetched, epoch seconds.

    `-inf` where it has none, `inf` where the store could not be asked or not be believed.
    """
    if found.uncertainty or not found.state.generation:
        return inf
    return max((piece.span.fetched_at for piece in found.slices if piece.span.marker == marker), default=-inf)


@immutable
class ReplayTerms:
    """Leave to repeat an answer, without asking the gateway, to every request whose decisive fields are the same.

    `proxy.gateway.relevant_headers` says which fields those are. The leave ends *until* then, with the answer's
    lifetime or its caller's admission, and at once when `ListingService.epoch` changes. The answer's age counts from
    *fetched_at*, and it is fresh until *fresh_until*; all three are epoch seconds. Whoever repeats the answer calls
    *on_use* now and then, or the store will take its spans for something that nobody asks for any more.

    *on_use* keeps about *size_bytes* in memory.
    """

    fetched_at: float
    fresh_until: float
    until: float
    on_use: Callable[[], None] = field(default=lambda: None, compare=False)
    size_bytes: int = field(default=0, compare=False)


@immutable
class ListResult:
    """A page, or the upstream's answer in its place, and how it came about."""

    page: Page | None
    response: Response | None
    cache_status: CacheStatus
    age_s: float = 0.0
    ttl_s: float = 0.0
    replay_terms: ReplayTerms | None = None


@dataclass(slots=True)
class CacheStatusBuilder:
    """How a page came about, for `Cache-Status`."""

    fwd: FwdReason | None = None
    fwd_status: int | None = None
    stored: bool = False
    collapsed: bool = False
    detail: str | None = None

    def add_fetch(self, outcome: FetchOutcome, *, collapsed: bool) -> None:
        """A fetch ended."""
        self.fwd_status, self.detail = outcome.status, outcome.detail
        self.collapsed |= collapsed
        self.stored |= outcome.stored and not collapsed

    def build(self, ttl_s: float | None = None) -> CacheStatus:
        """Return what is told to the caller."""
        return CacheStatus(self.fwd, self.fwd_status, ttl_s, self.stored, self.collapsed, self.detail)
