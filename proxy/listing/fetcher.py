"""Fetches spans; who may share what a fetch brings is decided here, how it is shared in `proxy.caching.collapsing`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf

from proxy.caching.collapsing import PERSONAL_STATUSES, FetchCollapser, without_per_call_fields
from proxy.core.freshness import Freshness, span_freshness
from proxy.core.list_query import Window
from proxy.core.messages import USER_AGENT, Fields, Request, Response, Upstream
from proxy.core.span import Span
from proxy.core.values import immutable
from proxy.errors import StoreUnavailableError
from proxy.http.negotiation import ACCEPTED_CODINGS
from proxy.listing.rendering import page_link
from proxy.listing.request import ListRequest
from proxy.listing.response_parser import NotAList, read_list_in_slices
from proxy.observability.event_loop import run_in_slices
from proxy.observability.logging import Telemetry
from proxy.storage.base import FetchLock, ListingState, SpanStore


@immutable
class FetchOutcome:
    """How a fetch ended: a *span*, or an upstream's *response* that is no list and goes to the caller as it is.

    *accept* is the form that the answer was asked for in.
    """

    status: int
    span: Span | None = None
    response: Response | None = None
    stored: bool = False
    by_another_replica: bool = False
    detail: str | None = None
    accept: str = ""

    @property
    def is_personal(self) -> bool:
        """Whether the answer sets a cookie, which is for who asked alone."""
        return self.response is not None and self.response.fields.get("set-cookie") is not None


@immutable
class SpanRequest:
    """A span to fetch: *limit* rows after the marker *marker*. *generation* is that of the listing when it was asked
    for.

    A write changes the generation, so nobody who asks after the write joins a fetch that began before it; for writes
    that may go unheard there is *join_after*, see `proxy.storage.base.FoundSpans`. *newer_than* is when the span was
    fetched that the caller found in the store and could not use: a span that another replica has fetched since will do.
    """

    marker: str
    limit: int
    generation: str
    newer_than: float
    join_after: float = -inf


class SpanFetcher:
    """Fetches spans and stores them. *clock* gives epoch seconds, *rng* a number from 0 to 1."""

    def __init__(
        self,
        upstream: Upstream,
        store: SpanStore,
        *,
        telemetry: Telemetry,
        clock: Callable[[], float],
        rng: Callable[[], float],
    ) -> None:
        self._upstream = upstream
        self._store = store
        self._telemetry = telemetry
        self._clock = clock
        self._rng = rng
        self._collapser: FetchCollapser[FetchOutcome] = FetchCollapser(store, telemetry=telemetry, clock=clock)

    async def close(self) -> None:
        """End the fetches that are under way."""
        await self._collapser.close()

    async def fetch(
        self, request: ListRequest, span_request: SpanRequest, *, purpose: str = "list"
    ) -> tuple[FetchOutcome, bool]:
        """Return how fetching *span_request* ended, and whether another caller's fetch did it.

        Raises `ProxyError` where the upstream gave no answer.
        """
        got = await self._collapser.collapse(
            (request.key.digest, span_request.marker, span_request.generation),
            lambda: self._fetch_locked(request, span_request, purpose),
            is_usable=lambda fetched, failed: _is_usable(request, fetched, failed),
            join_after=span_request.join_after,
        )
        if got is None:
            return await self._fetch_from_upstream(
                request, span_request, FetchLock(ListingState(span_request.generation), 0), purpose
            ), False
        outcome, collapsed = got
        if collapsed and outcome.response is not None:
            outcome = replace(outcome, response=without_per_call_fields(outcome.response))
        return outcome, collapsed or outcome.by_another_replica

    async def _fetch_locked(self, request: ListRequest, span_request: SpanRequest, purpose: str) -> FetchOutcome:
        return await self._collapser.fetch_locked(
            request.key,
            span_request.marker,
            lambda claim: self._fetch_unless_stored(request, span_request, claim, purpose),
            find_fetched=lambda: self._find_fetched(request, span_request),
            generation=span_request.generation,
        )

    async def _fetch_unless_stored(
        self, request: ListRequest, span_request: SpanRequest, lock: FetchLock, purpose: str
    ) -> FetchOutcome:
        """Fetch, unless another replica has done so between our look into the store and our claim."""
        later = await self._find_fetched(request, span_request) if lock.is_stored else None
        return later or await self._fetch_from_upstream(request, span_request, lock, purpose)

    async def _fetch_from_upstream(
        self, request: ListRequest, span_request: SpanRequest, lock: FetchLock, purpose: str
    ) -> FetchOutcome:
        sent_at = self._clock()
        response = await self._call_upstream(request, span_request, purpose)
        if response.status != 200:
            return FetchOutcome(response.status, response=response, accept=request.accept)
        reading = read_list_in_slices(response.body, sort_keys=request.sort.nullable_keys, public=request.public_only)
        holder = await run_in_slices(reading)
        if isinstance(holder, NotAList):
            return FetchOutcome(200, response=response, detail=holder.reason, accept=request.accept)
        lifetime_s = request.lifetimes.freshness_lifetime_s(
            changes_pending=lock.state.changes_pending,
            transient_since=holder.transient_since,
            now=sent_at,
            jitter=self._rng(),
        )
        span = holder.to_span(
            marker=span_request.marker,
            asked=span_request.limit,
            unlinked=request.without_next,
            fetched_at=sent_at,
            lifetime_s=lifetime_s,
            generation=lock.state.generation,
        )
        return FetchOutcome(200, span=span, stored=await self.store(request, span, fence=lock.fence or 0))

    async def store(self, request: ListRequest, span: Span, *, fence: int = 0) -> bool:
        """Store *span* and return whether that could be done."""
        if span.lifetime_s <= 0:
            return False
        keep_s = span.lifetime_s + request.lifetimes.max_stale_s
        try:
            await self._store.put(request.key, span, keep_s=keep_s, now=self._clock(), fence=fence)
        except StoreUnavailableError:
            return False
        return True

    async def _call_upstream(self, list_request: ListRequest, span_request: SpanRequest, purpose: str) -> Response:
        target = page_link(
            "",
            list_request.upstream_path,
            list_request.key.query,
            Window(span_request.limit),
            span_request.marker or None,
        )
        fields = list_request.upstream_fields.plus(("Accept-Encoding", ACCEPTED_CODINGS), ("User-Agent", USER_AGENT))
        request = Request(
            "GET", target, Fields(fields), request_id="", context=list_request.context.for_purpose(purpose)
        )
        if list_request.principal.signer is not None:
            request = list_request.principal.signer.sign(request, now=self._clock())
        with self._telemetry.track_call(purpose, clock=self._clock) as call:
            response = await self._upstream.fetch(request)
            call.status = str(response.status)
        return response

    async def _find_fetched(self, request: ListRequest, span_request: SpanRequest) -> FetchOutcome | None:
        """Return how another replica's fetch since has ended, if that is a span to use.

        It is asked for whole: what memory has of it may be the span that was found wanting.
        """
        try:
            found = await self._store.lookup(
                request.key, span_request.marker, span_request.limit, can_join=False, now=self._clock()
            )
        except StoreUnavailableError:
            return None
        if not found.slices or found.slices[0].start:
            return None
        span = found.slices[0].span
        if span.fetched_at <= span_request.newer_than or (span.limit < span_request.limit and not span.completes_page):
            return None
        stands = span_freshness(span, request.lifetimes, generation=found.state.generation, now=self._clock())
        return FetchOutcome(200, span=span, stored=True, by_another_replica=True) if stands is Freshness.FRESH else None


def _is_usable(request: ListRequest, outcome: FetchOutcome, failed: bool) -> bool:
    """Whether a caller may take what another caller's fetch has brought; *failed* says that a first one was no use.

    Callers who share a public list share no partition. An answer that is no list may hold what only the caller who
    fetched it may see, so of those answers they share only failures of the upstream.
    """
    # A key is locked after five refused signatures: those who asked by it take one refusal for all of them.
    refused = outcome.status == 401 and request.principal.signer is not None
    own = outcome.status in PERSONAL_STATUSES or outcome.is_personal or (request.public_only and outcome.status < 500)
    return outcome.span is not None or refused or (failed and not own and outcome.accept == request.accept)
