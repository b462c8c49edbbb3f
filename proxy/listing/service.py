"""Answers list requests: looks spans up, fetches only what is missing, and assembles the page.

Read this file first. A request's way: `answer` looks into storage and decides. A page from fresh spans is served (a
hit). A stale page is served and revalidated in the background. A remembered 400 or 404 is served again. Otherwise the
missing span is fetched, by one caller for all who want it, and the page is assembled from old and new spans. When the
upstream fails, a stale page stands in for it (stale-if-error), else its own answer goes to the caller.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, assert_never

from proxy.auth.token_acceptance import RevokeToken, TokenAcceptance
from proxy.caching.background import BackgroundTasks, BudgetSaver
from proxy.caching.bounded import NEGATIVE_STATUSES, NegativeCache
from proxy.core.cache_status import CacheStatus, FwdReason
from proxy.core.freshness import ERROR_STATUSES, Freshness, TrustPeriod, current_age
from proxy.core.messages import Response
from proxy.core.replay import ReplayTerms
from proxy.core.span import LIST_START, Missing, Page, Span, SpanSlice, assemble_page
from proxy.core.values import immutable
from proxy.errors import NotCachedError, ProxyError, RateLimitedError
from proxy.http.cache_control import NO_DIRECTIVES
from proxy.listing.fetcher import FetchOutcome, SpanFetcher, SpanRequest
from proxy.listing.lookup import SpanLookup, latest_fetch_time
from proxy.listing.marker_recovery import LOST_MARKER_STATUSES, MarkerRecovery
from proxy.listing.prefetch import FetchSizing, Prefetcher
from proxy.listing.request import ListRequest
from proxy.storage.base import FoundSpans, SpanStore

_MAX_FETCHES: Final = 48
_MAX_BACKGROUND: Final = 64
_KEY_BYTES: Final = 800  # what a cache key takes beside its query


@immutable
class ListResult:
    """A *page*, or the upstream's *response* in its place, with what `Cache-Status` says of it. Times in seconds."""

    page: Page | None
    response: Response | None
    cache_status: CacheStatus
    age_s: float = 0.0
    ttl_s: float = 0.0
    replay_terms: ReplayTerms | None = None


@dataclass(slots=True)
class CacheStatusBuilder:
    """Collects what happened to one request, for `Cache-Status` (RFC 9211)."""

    fwd: FwdReason | None = None
    fwd_status: int | None = None
    stored: bool = False
    collapsed: bool = False
    detail: str | None = None

    def add_fetch(self, outcome: FetchOutcome, *, collapsed: bool) -> None:
        self.fwd_status, self.detail = outcome.status, outcome.detail
        self.collapsed |= collapsed
        self.stored |= outcome.stored and not collapsed

    def build(self, ttl_s: float | None = None) -> CacheStatus:
        return CacheStatus(self.fwd, self.fwd_status, ttl_s, self.stored, self.collapsed, self.detail)


@immutable
class Serve:
    """Fresh spans hold the page."""

    page: Page


@immutable
class ServeStale:
    """Stale spans hold the page, within stale-while-revalidate (RFC 5861 §3)."""

    page: Page


@immutable
class ServeNegative:
    """The upstream refused the same request a moment ago."""

    response: Response


@immutable
class Fetch:
    """Something is missing."""

    missing: Missing


Decision = Serve | ServeStale | ServeNegative | Fetch


class ListingService:
    """Answers list requests from spans in *store*, which *fetcher* fills. *clock* gives epoch seconds.

    *sizing* sizes fetches, *trust* says how long the upstream's acceptance of a token is trusted, *negative_s* how long
    a 400 or 404 is remembered. *revoke_token* makes all replicas forget what Keystone said of a rejected token.
    """

    def __init__(
        self,
        fetcher: SpanFetcher,
        store: SpanStore,
        *,
        sizing: FetchSizing,
        trust: TrustPeriod,
        negative_s: float,
        clock: Callable[[], float],
        revoke_token: RevokeToken | None = None,
        budget_saver: BudgetSaver | None = None,
    ) -> None:
        self._fetcher = fetcher
        self._store = store
        self.acceptance = TokenAcceptance(store, trust=trust, clock=clock, revoke_token=revoke_token)
        self._lookup = SpanLookup(store, self.acceptance, clock=clock)
        self._budget_saver = budget_saver or BudgetSaver()
        self._prefetcher = Prefetcher(sizing, self._lookup, budget_saver=self._budget_saver, clock=clock)
        self._marker_recovery = MarkerRecovery(fetcher, store, max_page=sizing.max_page, clock=clock)
        self._clock = clock
        self._negative = NegativeCache(ttl_s=negative_s, clock=clock)
        self.background = BackgroundTasks(_MAX_BACKGROUND)

    @property
    def epoch(self) -> int | None:
        """A number that changes with every invalidation and rejected credential; None while none can be heard of."""
        epoch = self._store.epoch
        return None if epoch is None else epoch + self.acceptance.rejection_count

    async def close(self) -> None:
        await self.background.close()
        await self._fetcher.close()

    async def has_shown(self, request: ListRequest) -> bool:
        """Return whether this listing has shown the image that *request* names as its marker."""
        return await self._marker_recovery.has_shown(request)

    async def answer(self, request: ListRequest) -> ListResult:
        """Return the page, or the upstream's own answer if it gave no list.

        Raises `ProxyError` if the upstream gave no answer at all and nothing stored may stand in for it.
        """
        status = CacheStatusBuilder()
        missing = Missing(request.marker, request.row_count, ())
        for _ in range(_MAX_FETCHES):
            found = await self._lookup.find(request, missing)
            match self._decide(request, missing, found, has_fetched=status.fwd is not None):
                case Serve(page):
                    return self._serve_page(request, page, status)
                case ServeStale(page):
                    return self._serve_stale(request, page, found)
                case ServeNegative(response):
                    return ListResult(None, response, CacheStatus(detail="negative"))
                case Fetch(missing):
                    status.fwd = status.fwd or _fwd_reason(missing, found)
                    got = await self._fetch(request, missing, found, status)
                    if missing.slices and _is_lost_marker(got):
                        # A marker between two stored spans is gone, not the caller's: what is stored leads nowhere.
                        missing = Missing(request.marker, request.row_count, ())
                        found = replace(found, slices=(), marker_span_limit=0)
                        got = await self._fetch(request, missing, found, status)
                    if isinstance(got, ListResult):
                        return got
                    page_or_missing = self._join(request, missing, got)
                    if isinstance(page_or_missing, Page):
                        return self._serve_page(request, page_or_missing, status)
                    missing = page_or_missing
                case unexpected:
                    assert_never(unexpected)
        raise ProxyError(f"listing: not assembled within {_MAX_FETCHES} fetches")

    def _decide(self, request: ListRequest, missing: Missing, found: FoundSpans, *, has_fetched: bool) -> Decision:
        """Choose how to answer from what storage has (RFC 9111 §4, RFC 5861).

        After a fetch only fresh spans count. Raises `NotCachedError` if the caller forbids a fetch that is needed.
        """
        fresh = self._lookup.assemble(request, missing, found, Freshness.FRESH)
        if isinstance(fresh, Page):
            return Serve(fresh)
        if has_fetched:
            return Fetch(fresh)
        stale = self._lookup.assemble(request, missing, found, Freshness.STALE_WHILE_REVALIDATE)
        if isinstance(stale, Page):
            return ServeStale(stale)
        negative = self._negative.get(_negative_key(request, found))
        if negative is not None and request.directives.max_age_s is None:
            return ServeNegative(negative)
        if request.directives.only_if_cached:
            raise NotCachedError("listing: not in the store, and the caller sent only-if-cached")
        return Fetch(fresh)

    def _join(self, request: ListRequest, missing: Missing, span: Span) -> Page | Missing:
        """Put the fetched *span* behind the stored slices in *missing*."""
        slices = [*missing.slices, SpanSlice(span, 0)]
        result = assemble_page(request.marker, request.row_count, slices, can_join=request.sort.is_stable)
        if isinstance(result, Missing) and result.marker == span.marker and span.is_indivisible:
            self._prefetcher.fetch_page_by_page(request, span)
        return result

    async def _fetch(
        self, request: ListRequest, missing: Missing, found: FoundSpans, status: CacheStatusBuilder
    ) -> Span | ListResult:
        """Return the span fetched for *missing*, or what the caller gets in place of the page."""
        last_resort = found.as_last_resort
        fallback = self._lookup.assemble(request, missing, last_resort, Freshness.STALE_IF_ERROR)
        # A caller with a stale page to fall back on does not queue for a call.
        waiting = replace(request.context, may_wait=request.context.may_wait and not isinstance(fallback, Page))
        span_request = self._prefetcher.plan_fetch(request, missing, found)
        try:
            outcome, collapsed = await self._fetcher.fetch(replace(request, context=waiting), span_request)
        except RateLimitedError:
            if given := self._serve_if_error(request, missing, last_resort, status, detail="stale-while-waiting"):
                return given
            raise
        except ProxyError:
            if given := self._serve_if_error(request, missing, found, status):
                return given
            raise
        may_have_vanished = outcome.status in NEGATIVE_STATUSES and missing.marker != LIST_START
        if may_have_vanished and (span := await self._marker_recovery.recover(request, missing, found)):
            status.add_fetch(FetchOutcome(200, span=span, stored=True, detail="marker-recovered"), collapsed=False)
            return span
        status.add_fetch(outcome, collapsed=collapsed)
        await self._record_acceptance(request, outcome)
        if outcome.span is not None:
            return outcome.span
        assert outcome.response is not None
        if not (missing.slices or request.public_only):  # callers of a public list share no partition
            self._negative.put(_negative_key(request, found), outcome.response)
        if outcome.status in ERROR_STATUSES and (given := self._serve_if_error(request, missing, found, status)):
            return given
        return ListResult(None, outcome.response, status.build())

    async def _record_acceptance(self, request: ListRequest, outcome: FetchOutcome) -> None:
        """Note what the upstream's answer says of the caller's credential."""
        if outcome.span is not None:
            self.acceptance.record_acceptance(request.principal, sent_at=outcome.span.fetched_at)
        elif outcome.status == 401:
            await self.acceptance.record_rejection(request.principal)

    def _serve_page(self, request: ListRequest, page: Page, status: CacheStatusBuilder) -> ListResult:
        now = self._clock()
        spans = [part.span for part in page.parts]
        ages = [current_age(span.fetched_at, now=now) for span in spans]
        age_s = max(ages)
        ttl_s = min(span.lifetime_s - age for span, age in zip(spans, ages, strict=True))
        if ttl_s > 0 and (span_request := self._prefetcher.plan_prefetch(request, page)):
            self.background.start(self._prefetch(request, span_request))
        is_hit = status.fwd is None and status.detail is None and ttl_s > 0
        terms = self._replay_terms(request, page, now - age_s, now + ttl_s) if is_hit else None
        return ListResult(page, None, status.build(ttl_s), age_s=age_s, ttl_s=ttl_s, replay_terms=terms)

    def _serve_stale(self, request: ListRequest, page: Page, found: FoundSpans) -> ListResult:
        """Serve a stale page, and revalidate its spans in the background unless the budget is low."""
        if self._budget_saver.skips("revalidate", request.context.partition):
            return self._serve_page(request, page, CacheStatusBuilder(detail="budget-low"))
        for span in (part.span for part in page.parts):
            if self._lookup.freshness(request, span, found.state) < Freshness.FRESH:
                limit, generation = max(span.limit, 1), found.state.generation
                span_request = SpanRequest(span.marker, limit, generation, span.fetched_at, found.join_after)
                self.background.start(self._revalidate(request, span_request))
        return self._serve_page(request, page, CacheStatusBuilder(detail="stale-while-revalidate"))

    def _serve_if_error(
        self,
        request: ListRequest,
        missing: Missing,
        found: FoundSpans,
        status: CacheStatusBuilder,
        *,
        detail: str = "stale-if-error",
    ) -> ListResult | None:
        """Serve a stale page in place of the upstream's error (RFC 5861 §4), if there is one."""
        page = self._lookup.assemble(request, missing, found, Freshness.STALE_IF_ERROR)
        if not isinstance(page, Page):
            return None
        status.detail = detail
        return self._serve_page(request, page, status)

    def _replay_terms(
        self, request: ListRequest, page: Page, fetched_at: float, fresh_until: float
    ) -> ReplayTerms | None:
        if request.directives != NO_DIRECTIVES:
            return None  # what the caller demands of age and lifetime has to be checked each time
        self.acceptance.mark_served(request.principal)
        trusted_until = self.acceptance.trusted_until(request.principal, fetched_at=fetched_at)
        until = min(fresh_until, trusted_until, request.principal.expires_at)
        # Keeps the key and markers only: the terms live long, and the request holds the token.
        on_use = partial(self._store.note_use, request.key, [part.span.marker for part in page.parts])
        return ReplayTerms(fetched_at, fresh_until, until, on_use, size_bytes=_KEY_BYTES + len(request.key.query))

    async def _prefetch(self, request: ListRequest, span_request: SpanRequest) -> None:
        found = await self._lookup.find(request, Missing(span_request.marker, 1, ()))
        if found.slices and self._lookup.freshness(request, found.slices[0].span, found.state) is Freshness.FRESH:
            return
        span_request = replace(span_request, newer_than=latest_fetch_time(found, span_request.marker))
        try:
            await self._fetcher.fetch(request, span_request, purpose="prefetch")
        except RateLimitedError:
            self._prefetcher.forget_prefetch(request, span_request)
            raise

    async def _revalidate(self, request: ListRequest, span_request: SpanRequest) -> None:
        outcome, _ = await self._fetcher.fetch(request, span_request, purpose="revalidate")
        await self._record_acceptance(request, outcome)


def _is_lost_marker(got: Span | ListResult) -> bool:
    return isinstance(got, ListResult) and got.response is not None and got.response.status in LOST_MARKER_STATUSES


def _fwd_reason(missing: Missing, found: FoundSpans) -> FwdReason:
    if missing.slices:
        return FwdReason.PARTIAL
    return FwdReason.STALE if found.slices else FwdReason.URI_MISS


def _negative_key(request: ListRequest, found: FoundSpans) -> tuple[str, str, str, int, str]:
    return (request.key.digest, found.knowledge, request.marker, request.row_count, request.accept)
