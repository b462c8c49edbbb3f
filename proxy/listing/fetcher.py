"""Fetches spans from the upstream and stores them, one fetch for all callers who may share it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf

from proxy.caching.collapsing import PERSONAL_STATUSES, FetchCollapser, without_per_call_fields
from proxy.core.freshness import Freshness, span_freshness
from proxy.core.list_query import Window
from proxy.core.messages import USER_AGENT, Request, Response, Upstream
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
    """How a fetch ended: a *span*, or an upstream *response* that is no list and goes to the caller as it is.

    *accept* is the `Accept` it was asked with: it decides the form of errors.
    """

    status: int
    span: Span | None = None
    response: Response | None = None
    stored: bool = False
    by_another_replica: bool = False
    detail: str | None = None
    accept: str = ""

    @property
    def sets_cookie(self) -> bool:
        return self.response is not None and self.response.fields.get("set-cookie") is not None


@immutable
class SpanRequest:
    """A span to fetch: *limit* rows after *marker*.

    *generation* is the listing's when the caller looked it up. A write changes it, so nobody who asks after the write
    joins a fetch from before it; *join_after* does the same for writes that may go unheard (see `FoundSpans`).
    *newer_than* is when the span was fetched that the caller found and could not use, epoch seconds: a newer one that
    another replica fetched will do.
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
        await self._collapser.close()

    async def fetch(
        self, request: ListRequest, span_request: SpanRequest, *, purpose: str = "list"
    ) -> tuple[FetchOutcome, bool]:
        """Return how fetching *span_request* ended, and whether another caller's fetch did it.

        Raises `ProxyError` if the upstream gave no answer.
        """
        marker, generation = span_request.marker, span_request.generation

        async def fetch_under_lock(lock: FetchLock) -> FetchOutcome:
            # Another replica may have fetched it between the caller's lookup and the lock.
            stored = await self._find_fetched(request, span_request) if lock.is_stored else None
            return stored or await self._fetch_from_upstream(request, span_request, lock, purpose)

        got = await self._collapser.collapse(
            (request.key.digest, marker, generation),
            lambda: self._collapser.fetch_locked(
                request.key,
                marker,
                fetch_under_lock,
                find_fetched=lambda: self._find_fetched(request, span_request),
                generation=generation,
            ),
            is_usable=lambda outcome, failed: _is_usable(request, outcome, failed),
            join_after=span_request.join_after,
        )
        if got is None:
            no_lock = FetchLock(ListingState(generation), 0)
            return await self._fetch_from_upstream(request, span_request, no_lock, purpose), False
        outcome, collapsed = got
        if collapsed and outcome.response is not None:
            outcome = replace(outcome, response=without_per_call_fields(outcome.response))
        return outcome, collapsed or outcome.by_another_replica

    async def _fetch_from_upstream(
        self, request: ListRequest, span_request: SpanRequest, lock: FetchLock, purpose: str
    ) -> FetchOutcome:
        sent_at = self._clock()
        response = await self._call_upstream(request, span_request, purpose)
        if response.status != 200:
            return FetchOutcome(response.status, response=response, accept=request.accept)
        reading = read_list_in_slices(
            response.body,
            api=request.upstream_api,
            sort_keys=request.sort.nullable_keys,
            public=request.public_only,
        )
        parsed = await run_in_slices(reading)
        if isinstance(parsed, NotAList):
            return FetchOutcome(200, response=response, detail=parsed.reason, accept=request.accept)
        lifetime_s = request.lifetimes.freshness_lifetime_s(
            changes_pending=lock.state.changes_pending,
            transient_since=parsed.transient_since,
            now=sent_at,
            jitter=self._rng(),
        )
        span = parsed.to_span(
            marker=span_request.marker,
            limit=span_request.limit,
            without_next=not request.upstream_api.gives_next,
            fetched_at=sent_at,
            lifetime_s=lifetime_s,
            generation=lock.state.generation,
        )
        return FetchOutcome(200, span=span, stored=await self.store(request, span, fence=lock.fence or 0))

    async def store(self, request: ListRequest, span: Span, *, fence: int = 0) -> bool:
        """Store *span*; return whether it was stored."""
        if span.lifetime_s <= 0:
            return False
        keep_s = span.lifetime_s + request.lifetimes.max_stale_s
        try:
            await self._store.put(request.key, span, keep_s=keep_s, now=self._clock(), fence=fence)
        except StoreUnavailableError:
            return False
        return True

    async def _call_upstream(self, list_request: ListRequest, span_request: SpanRequest, purpose: str) -> Response:
        """Send the request, made from the canonical query alone (law 1)."""
        path, query = list_request.upstream_api.path, list_request.key.query
        target = page_link("", path, query, Window(span_request.limit), span_request.marker or None)
        fields = list_request.upstream_fields.plus(("Accept-Encoding", ACCEPTED_CODINGS), ("User-Agent", USER_AGENT))
        request = Request("GET", target, fields, request_id="", context=list_request.context.for_purpose(purpose))
        if list_request.principal.signer is not None:
            request = list_request.principal.signer.sign(request, now=self._clock())
        with self._telemetry.track_call(purpose, clock=self._clock) as call:
            response = await self._upstream.fetch(request)
            call.status = str(response.status)
        return response

    async def _find_fetched(self, request: ListRequest, span_request: SpanRequest) -> FetchOutcome | None:
        """Return the span that another replica has fetched since, if it serves.

        Storage is asked for the whole span: memory may hold parts of the one that did not do.
        """
        marker, limit, now = span_request.marker, span_request.limit, self._clock()
        try:
            found = await self._store.lookup(request.key, marker, limit, can_join=False, now=now)
        except StoreUnavailableError:
            return None
        if not found.slices or found.slices[0].start:
            return None
        span = found.slices[0].span
        if span.fetched_at <= span_request.newer_than or (span.limit < limit and not span.completes_page):
            return None
        freshness = span_freshness(span, request.lifetimes, generation=found.state.generation, now=self._clock())
        if freshness is not Freshness.FRESH:
            return None
        return FetchOutcome(200, span=span, stored=True, by_another_replica=True)


def _is_usable(request: ListRequest, outcome: FetchOutcome, failed: bool) -> bool:
    """Return whether a caller may take the outcome of another caller's fetch.

    *failed* says that an earlier fetch was already of no use to this caller. Callers of a public list share no
    partition, and an answer that is no list may hold what only its caller may see: they share nothing but upstream
    failures.
    """
    if outcome.span is not None:
        return True
    if outcome.status == 401 and request.principal.signer is not None:
        return True  # a key is locked after five refused signatures: its callers take one refusal for all of them
    is_personal = outcome.status in PERSONAL_STATUSES or outcome.sets_cookie
    may_hold_secrets = request.public_only and outcome.status < 500
    return failed and not is_personal and not may_hold_secrets and outcome.accept == request.accept
