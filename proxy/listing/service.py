"""From a window to a page: look in the store, fetch what is missing, splice.

Only what is missing is fetched, after the last known marker, in strides that grow while the caller keeps paging.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

from proxy.auth.token_acceptance import RevokeToken, TokenAcceptance
from proxy.caching.background import BackgroundTasks
from proxy.caching.bounded import NEGATIVE_STATUSES, NegativeCache
from proxy.core.cache_status import CacheStatus, FwdReason
from proxy.core.freshness import ERROR_STATUSES, Freshness, TrustPeriod, current_age
from proxy.core.span import LIST_START, Missing, Page, Span, SpanSlice, assemble_page
from proxy.errors import NotCachedError, ProxyError, RateLimitedError
from proxy.http.cache_control import NO_DIRECTIVES
from proxy.listing.fetcher import FetchOutcome, SpanFetcher, SpanRequest
from proxy.listing.lookup import CacheStatusBuilder, ListResult, ReplayTerms, SpanLookup, latest_fetch_time
from proxy.listing.marker_recovery import LOST_MARKER_STATUSES, MarkerRecovery
from proxy.listing.prefetch import BudgetSaver, FetchSizing, Prefetcher
from proxy.listing.request import ListRequest
from proxy.storage.base import FoundSpans, SpanStore

_MAX_FETCHES: Final = 48
_MAX_BACKGROUND: Final = 64
_KEY_BYTES: Final = 800  # what a listing's name takes beside its query


class ListingService:
    """Answers list requests from spans in *store*, which *fetcher* fills. *clock* gives epoch seconds.

    *readahead* sizes fetches, *trust* says how long a caller's admission is believed, *negative_s* how long a 400 or
    404 is remembered. *drop* takes back what IAM said of a token that the upstream refuses.
    """

    def __init__(
        self,
        fetcher: SpanFetcher,
        store: SpanStore,
        *,
        readahead: FetchSizing,
        trust: TrustPeriod,
        negative_s: float,
        clock: Callable[[], float],
        drop: RevokeToken | None = None,
        budget_saver: BudgetSaver | None = None,
    ) -> None:
        self._fetcher = fetcher
        self._store = store
        self.acceptance = TokenAcceptance(store, trust=trust, clock=clock, revoke_token=drop)
        self._lookup = SpanLookup(store, self.acceptance, clock=clock)
        self._budget_saver = budget_saver or BudgetSaver()
        self._prefetcher = Prefetcher(readahead, self._lookup, budget_saver=self._budget_saver, clock=clock)
        self._marker_recovery = MarkerRecovery(fetcher, store, max_page=readahead.max_page, clock=clock)
        self._clock = clock
        self._negative = NegativeCache(ttl_s=negative_s, clock=clock)
        self.background = BackgroundTasks(_MAX_BACKGROUND)

    @property
    def epoch(self) -> int | None:
        """A number that changes with every invalidation and with `TokenAcceptance.rejection_count`; see
        `SpanStore.epoch`.
        """
        epoch = self._store.epoch
        return None if epoch is None else epoch + self.acceptance.rejection_count

    async def close(self) -> None:
        """End what is under way."""
        await self.background.close()
        await self._fetcher.close()

    async def has_shown(self, request: ListRequest) -> bool:
        """See `MarkerRecovery.has_shown`."""
        return await self._marker_recovery.has_shown(request)

    async def answer(self, request: ListRequest) -> ListResult:
        """Return the page that *request* asks for, or the upstream's own answer where it gave no list.

        Raises `ProxyError` where the upstream gave none at all and nothing stored may stand in for it.
        """
        status = CacheStatusBuilder()
        missing = Missing(request.marker, request.row_count, ())
        for _ in range(_MAX_FETCHES):
            found = await self._lookup.find(request, missing)
            result: Page | Missing | ListResult = self._lookup.assemble(request, missing, found, Freshness.FRESH)
            if isinstance(result, Missing):
                if status.fwd is None and (given := self._answer_without_fetch(request, missing, found)):
                    return given
                result = await self._fetch_missing(request, result, found, status)
            match result:
                case ListResult():
                    return result
                case Page():
                    return self._serve_page(request, result, status)
                case Missing():
                    missing = result
        raise ProxyError(f"listing: not joined within {_MAX_FETCHES} fetches")

    async def _fetch_missing(
        self, request: ListRequest, missing: Missing, found: FoundSpans, status: CacheStatusBuilder
    ) -> Page | Missing | ListResult:
        """Return the page once *missing* has been fetched, or what it still lacks, or what is given in its place."""
        status.fwd = status.fwd or _fwd_reason(missing, found)
        got = await self._fetch_or_fall_back(request, missing, found, status)
        if (
            missing.slices
            and isinstance(got, ListResult)
            and got.response
            and got.response.status in LOST_MARKER_STATUSES
        ):
            # It is not the caller's marker that is gone but one between spans, so what is stored leads nowhere.
            missing, found = (
                Missing(request.marker, request.row_count, ()),
                replace(found, slices=(), marker_span_limit=0),
            )
            got = await self._fetch_or_fall_back(request, missing, found, status)
        if isinstance(got, ListResult):
            return got
        covered = assemble_page(
            request.marker, request.row_count, [*missing.slices, SpanSlice(got, 0)], can_join=request.sort.is_stable
        )
        if isinstance(covered, Missing) and covered.marker == got.marker and got.is_indivisible:
            self._prefetcher.fetch_page_by_page(request, got)
        return covered

    def _answer_without_fetch(self, request: ListRequest, missing: Missing, found: FoundSpans) -> ListResult | None:
        """Return what can be given at once in place of a fresh page: a stale one, or a refusal that is remembered.

        None where there is neither; raises `NotCachedError` if the caller wants nothing fetched then.
        """
        stale = self._lookup.assemble(request, missing, found, Freshness.STALE_WHILE_REVALIDATE)
        if isinstance(stale, Page) and self._budget_saver.skips("revalidate", request.context.partition):
            return self._serve_page(request, stale, CacheStatusBuilder(detail="thrift"))
        if isinstance(stale, Page):
            for part in stale.parts:
                size = max(part.span.limit, 1)
                if self._lookup.freshness(request, part.span, found.state) < Freshness.FRESH:
                    span_request = SpanRequest(
                        part.span.marker, size, found.state.generation, part.span.fetched_at, found.join_after
                    )
                    self.background.start(self._revalidate(request, span_request))
            return self._serve_page(request, stale, CacheStatusBuilder(detail="stale-while-revalidate"))
        refused = self._negative.get(_negative_key(request, found))
        if refused is not None and request.directives.max_age_s is None:
            return ListResult(None, refused, CacheStatus(detail="negative"))
        if request.directives.only_if_cached:
            raise NotCachedError("listing: not in the store, and the caller sent only-if-cached")
        return None

    async def _fetch_or_fall_back(
        self, request: ListRequest, missing: Missing, found: FoundSpans, status: CacheStatusBuilder
    ) -> Span | ListResult:
        """Return the span fetched for *missing*, or what is given in place of the page."""
        last_resort = found.as_last_resort
        stale_will_do = isinstance(self._lookup.assemble(request, missing, last_resort, Freshness.STALE_IF_ERROR), Page)
        asking = replace(request, context=replace(request.context, may_wait=False)) if stale_will_do else request
        try:
            outcome, collapsed = await self._fetcher.fetch(asking, self._prefetcher.plan_fetch(request, missing, found))
        except ProxyError as error:
            throttled = isinstance(error, RateLimitedError)
            if given := self._serve_stale_if_error(request, missing, last_resort if throttled else found, status):
                if throttled:
                    given = replace(given, cache_status=replace(given.cache_status, detail="stale-while-waiting"))
                return given
            raise
        vanished = outcome.span is None and outcome.status in NEGATIVE_STATUSES and missing.marker != LIST_START
        if vanished and (span := await self._marker_recovery.recover(request, missing, found)):
            status.add_fetch(FetchOutcome(200, span=span, stored=True, detail="vanished-marker"), collapsed=False)
            return span
        status.add_fetch(outcome, collapsed=collapsed)
        if outcome.span is not None:
            self.acceptance.record_acceptance(request.principal, sent_at=outcome.span.fetched_at)
            return outcome.span
        assert outcome.response is not None
        if outcome.status == 401:
            await self.acceptance.record_rejection(request.principal)
        if not (missing.slices or request.public_only):  # who share a public list share no partition
            self._negative.put(_negative_key(request, found), outcome.response)
        given = (
            self._serve_stale_if_error(request, missing, found, status) if outcome.status in ERROR_STATUSES else None
        )
        return given or ListResult(None, outcome.response, status.build())

    def _serve_stale_if_error(
        self, request: ListRequest, missing: Missing, found: FoundSpans, status: CacheStatusBuilder
    ) -> ListResult | None:
        page = self._lookup.assemble(request, missing, found, Freshness.STALE_IF_ERROR)
        if not isinstance(page, Page):
            return None
        status.detail = "stale-if-error"
        return self._serve_page(request, page, status)

    def _serve_page(self, request: ListRequest, page: Page, status: CacheStatusBuilder) -> ListResult:
        now = self._clock()
        spans = [part.span for part in page.parts]
        ages = [current_age(span.fetched_at, now=now) for span in spans]
        ttl_s = min(span.lifetime_s - age for span, age in zip(spans, ages, strict=True))
        if ttl_s > 0:
            self._start_prefetch(request, page)
        age_s = max(ages)
        hit = status.fwd is None and status.detail is None and ttl_s > 0
        repeatable = self._replay_terms(request, page, now - age_s, now + ttl_s) if hit else None
        return ListResult(page, None, status.build(ttl_s), age_s=age_s, ttl_s=ttl_s, replay_terms=repeatable)

    def _replay_terms(
        self, request: ListRequest, page: Page, fetched_at: float, fresh_until: float
    ) -> ReplayTerms | None:
        if request.directives != NO_DIRECTIVES:
            return None  # what the caller demands of age and lifetime is looked at each time
        self.acceptance.mark_served(request.principal)
        believed_until = self.acceptance.trusted_until(request.principal, fetched_at=fetched_at)
        until = min(fresh_until, believed_until, request.principal.expires_at)
        # Not by way of `ask`, which has the request, token and all: this is kept for long.
        used = partial(self._store.note_use, request.key, [part.span.marker for part in page.parts])
        return ReplayTerms(fetched_at, fresh_until, until, used, size_bytes=_KEY_BYTES + len(request.key.query))

    def _start_prefetch(self, request: ListRequest, page: Page) -> None:
        """Fetch the next span in the background where the caller is about to reach it."""
        if span_request := self._prefetcher.plan_prefetch(request, page):
            self.background.start(self._prefetch(request, span_request))

    async def _prefetch(self, request: ListRequest, span_request: SpanRequest) -> None:
        found = await self._lookup.find(request, Missing(span_request.marker, 1, ()))
        if found.slices and self._lookup.freshness(request, found.slices[0].span, found.state) is Freshness.FRESH:
            return
        span_request = replace(span_request, newer_than=latest_fetch_time(found, span_request.marker))
        try:
            await self._fetcher.fetch(request, span_request, purpose="readahead")
        except RateLimitedError:
            self._prefetcher.forget_prefetch(request, span_request)
            raise

    async def _revalidate(self, request: ListRequest, span_request: SpanRequest) -> None:
        outcome, _ = await self._fetcher.fetch(request, span_request, purpose="revalidate")
        if outcome.span is not None:
            self.acceptance.record_acceptance(request.principal, sent_at=outcome.span.fetched_at)
        elif outcome.status == 401:
            await self.acceptance.record_rejection(request.principal)


def _fwd_reason(missing: Missing, found: FoundSpans) -> FwdReason:
    if missing.slices:
        return FwdReason.PARTIAL
    return FwdReason.STALE if found.slices else FwdReason.URI_MISS


def _negative_key(request: ListRequest, found: FoundSpans) -> tuple[str, str, str, int, str]:
    return (request.key.digest, found.knowledge, request.marker, request.row_count, request.accept)
