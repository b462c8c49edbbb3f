"""Fetches spans; who may share what a fetch brings is decided here, how it is shared in `proxy.caching.collapsing`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf

from proxy.caching.collapsing import PERSONAL, Sharing, without_its_call
from proxy.core.freshness import Standing, standing
from proxy.core.list_query import Window
from proxy.core.messages import USER_AGENT, Fields, Request, Response, Upstream
from proxy.core.span import Span
from proxy.core.values import immutable
from proxy.errors import StoreUnavailableError
from proxy.http.negotiation import READABLE
from proxy.listing.rendering import page_link
from proxy.listing.request import ListAsk
from proxy.listing.response_parser import NotAList, read_list_in_slices
from proxy.observability.event_loop import run_in_slices
from proxy.observability.logging import Telemetry
from proxy.storage.base import Claim, SpanStore, State


@immutable
class Fetched:
    """How a fetch ended: a *span*, or an upstream's *answer* that is no list and goes to the caller as it is.

    *accept* is the form that the answer was asked for in.
    """

    status: int
    span: Span | None = None
    answer: Response | None = None
    stored: bool = False
    shared: bool = False
    detail: str | None = None
    accept: str = ""

    @property
    def personal(self) -> bool:
        """Whether the answer sets a cookie, which is for who asked alone."""
        return self.answer is not None and self.answer.fields.get("set-cookie") is not None


@immutable
class Wanted:
    """A span to fetch: *size* rows after the marker *after*. *generation* is that of the listing when it was asked for.

    A write changes the generation, so nobody who asks after the write joins a fetch that began before it; for writes
    that may go unheard there is *join_after*, see `proxy.storage.base.Found`. *seen* is when the span was fetched that
    the caller found in the store and could not use: a span that another replica has fetched since will do.
    """

    after: str
    size: int
    generation: str
    seen: float
    join_after: float = -inf


class Fetcher:
    """Fetches spans and stores them. *clock* gives epoch seconds, *dice* a number from 0 to 1."""

    def __init__(
        self,
        upstream: Upstream,
        store: SpanStore,
        *,
        telemetry: Telemetry,
        clock: Callable[[], float],
        dice: Callable[[], float],
    ) -> None:
        self._upstream = upstream
        self._store = store
        self._telemetry = telemetry
        self._clock = clock
        self._dice = dice
        self._sharing: Sharing[Fetched] = Sharing(store, telemetry=telemetry, clock=clock)

    async def close(self) -> None:
        """End the fetches that are under way."""
        await self._sharing.close()

    async def fetched(self, ask: ListAsk, wanted: Wanted, *, purpose: str = "list") -> tuple[Fetched, bool]:
        """Return how fetching *wanted* ended, and whether another caller's fetch did it.

        Raises `ProxyError` where the upstream gave no answer.
        """
        got = await self._sharing.shared(
            (ask.key.digest, wanted.after, wanted.generation),
            lambda: self._claimed(ask, wanted, purpose),
            serves=lambda fetched, failed: _serves(ask, fetched, failed),
            join_after=wanted.join_after,
        )
        if got is None:
            return await self._fetch(ask, wanted, Claim(State(wanted.generation), 0), purpose), False
        fetched, follows = got
        if follows and fetched.answer is not None:
            fetched = replace(fetched, answer=without_its_call(fetched.answer))
        return fetched, follows or fetched.shared

    async def _claimed(self, ask: ListAsk, wanted: Wanted, purpose: str) -> Fetched:
        return await self._sharing.claimed(
            ask.key,
            wanted.after,
            lambda claim: self._led(ask, wanted, claim, purpose),
            elsewhere=lambda: self._elsewhere(ask, wanted),
            generation=wanted.generation,
        )

    async def _led(self, ask: ListAsk, wanted: Wanted, claim: Claim, purpose: str) -> Fetched:
        """Fetch, unless another replica has done so between our look into the store and our claim."""
        later = await self._elsewhere(ask, wanted) if claim.there else None
        return later or await self._fetch(ask, wanted, claim, purpose)

    async def _fetch(self, ask: ListAsk, wanted: Wanted, claim: Claim, purpose: str) -> Fetched:
        sent_at = self._clock()
        response = await self._called(ask, wanted, purpose)
        if response.status != 200:
            return Fetched(response.status, answer=response, accept=ask.accept)
        reading = read_list_in_slices(response.body, sort_keys=ask.sort.nullable, public=ask.public)
        holding = await run_in_slices(reading)
        if isinstance(holding, NotAList):
            return Fetched(200, answer=response, detail=holding.reason, accept=ask.accept)
        fresh_s = ask.lifetimes.fresh_s(
            unsettled=claim.state.unsettled,
            transient_since=holding.transient_since,
            now=sent_at,
            dice=self._dice(),
        )
        span = holding.span(
            after=wanted.after,
            asked=wanted.size,
            unlinked=ask.unlinked,
            fetched_at=sent_at,
            lifetime_s=fresh_s,
            generation=claim.state.generation,
        )
        return Fetched(200, span=span, stored=await self.store(ask, span, fence=claim.fence or 0))

    async def store(self, ask: ListAsk, span: Span, *, fence: int = 0) -> bool:
        """Store *span* and return whether that could be done."""
        if span.lifetime_s <= 0:
            return False
        keep_s = span.lifetime_s + ask.lifetimes.stale_s
        try:
            await self._store.put(ask.key, span, keep_s=keep_s, now=self._clock(), fence=fence)
        except StoreUnavailableError:
            return False
        return True

    async def _called(self, ask: ListAsk, wanted: Wanted, purpose: str) -> Response:
        target = page_link("", ask.source, ask.key.query, Window(wanted.size), wanted.after or None)
        fields = ask.fields.plus(("Accept-Encoding", READABLE), ("User-Agent", USER_AGENT))
        request = Request("GET", target, Fields(fields), request_id="", claimant=ask.claimant.calling_for(purpose))
        if ask.who.signing is not None:
            request = ask.who.signing.signed(request, now=self._clock())
        with self._telemetry.calling(purpose, clock=self._clock) as call:
            response = await self._upstream.fetch(request)
            call.status = str(response.status)
        return response

    async def _elsewhere(self, ask: ListAsk, wanted: Wanted) -> Fetched | None:
        """Return how another replica's fetch since has ended, if that is a span to use.

        It is asked for whole: what memory has of it may be the span that was found wanting.
        """
        try:
            found = await self._store.chain(ask.key, wanted.after, wanted.size, joinable=False, now=self._clock())
        except StoreUnavailableError:
            return None
        if not found.pieces or found.pieces[0].start:
            return None
        span = found.pieces[0].span
        if span.fetched_at <= wanted.seen or (span.asked < wanted.size and not span.stops):
            return None
        stands = standing(span, ask.lifetimes, generation=found.state.generation, now=self._clock())
        return Fetched(200, span=span, stored=True, shared=True) if stands is Standing.FRESH else None


def _serves(ask: ListAsk, fetched: Fetched, failed: bool) -> bool:
    """Whether a caller may take what another caller's fetch has brought; *failed* says that a first one was no use.

    Callers who share a public list share no partition. An answer that is no list may hold what only the caller who
    fetched it may see, so of those answers they share only failures of the upstream.
    """
    # A key is locked after five refused signatures: those who asked by it take one refusal for all of them.
    refused = fetched.status == 401 and ask.who.signing is not None
    own = fetched.status in PERSONAL or fetched.personal or (ask.public and fetched.status < 500)
    return fetched.span is not None or refused or (failed and not own and fetched.accept == ask.accept)
