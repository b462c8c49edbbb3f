"""Fetches spans: at most one fetch of a span is in flight, in this process and among replicas.

How a fetch can end, and what those who wait for it do:

- done: they take the span.
- the upstream answered, but with no list: who led gets that answer; who followed asks once more. What those who follow
  again get, they share, for else a crowd would fall on an upstream that fails; but never a 401 or 403, which is about
  who asks: then each asks alone.
- the upstream could not be reached: likewise.
- the replica that led died: its claim lapses, and the first who asks again gets it.
- they waited too long: they fetch without a claim.
- the store is lost: every replica fetches for itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from proxy.core.answer import NotAList, listed
from proxy.core.claimant import Claimant, Priority
from proxy.core.coding import READABLE
from proxy.core.freshness import Standing, standing
from proxy.core.links import page_link
from proxy.core.listing import Span
from proxy.core.messages import Fields, Request, Response
from proxy.core.query import Window
from proxy.errors import ProxyError, StoreUnavailableError, TooManyCallsError
from proxy.gateway.asked import ListAsk
from proxy.gateway.coalescer import Coalescer
from proxy.stores.base import Claim, SpanStore, State
from proxy.telemetry import Telemetry
from proxy.upstream.base import Upstream

_USER_AGENT: Final = "ims-cache-proxy"
_UNAWAITED: Final = {"revalidate": Priority.REVALIDATION, "readahead": Priority.READAHEAD}
_CLAIM_WAITS: Final = 12
_JOINS: Final = 8
_PERSONAL: Final = frozenset({401, 403})
_CLAIM_WAIT_S: Final = 6.0


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Wanted:
    """A span to fetch: *size* rows after the marker *after*. *generation* is that of the listing when it was asked for.

    A fetch that began before a write is not joined after it, for then the generation is another one.
    """

    after: str
    size: int
    generation: str


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
        self._flights: Coalescer[Fetched] = Coalescer()

    async def close(self) -> None:
        """End the fetches that are under way."""
        await self._flights.close()

    async def fetched(self, ask: ListAsk, wanted: Wanted, *, purpose: str = "list") -> tuple[Fetched, bool]:
        """Return how fetching *wanted* ended, and whether another caller's fetch did it.

        Raises `ProxyError` where the upstream gave no answer.
        """
        at = (ask.key.digest, wanted.after, wanted.generation)
        failed = False
        for _ in range(_JOINS):
            follows = self._flights.flying(at)
            if follows:
                self._telemetry.collapsed()
            try:
                fetched = await self._flights.join(at, lambda: self._claimed(ask, wanted, purpose))
            except TooManyCallsError:
                if not follows:
                    raise
                continue  # who led may have had less patience or a lower rank than this caller
            except ProxyError:
                if not follows or failed:
                    raise
                failed = True
                continue
            # A key is locked after five refused signatures: those who asked by it take one refusal for all of them.
            refused = fetched.status == 401 and ask.who.signing is not None
            alike = failed and fetched.status not in _PERSONAL and fetched.accept == ask.accept
            if fetched.span is not None or refused or alike or not follows:
                return fetched, follows or fetched.shared
            failed = True
        return await self._fetch(ask, wanted, Claim(State(wanted.generation), 0), purpose), False

    async def _claimed(self, ask: ListAsk, wanted: Wanted, purpose: str) -> Fetched:
        """Fetch under a claim, or take what the replica that holds it has fetched."""
        claim = None
        for _ in range(_CLAIM_WAITS):
            claim = await self._claim(ask, wanted)
            if claim.fence is not None:
                break
            await self._settled(ask, wanted)
            if span := await self._elsewhere(ask, wanted):
                return Fetched(200, span=span, stored=True, shared=True)
        assert claim is not None
        try:
            return await self._fetch(ask, wanted, claim, purpose)
        finally:
            await self._settle(ask, wanted, claim)

    async def _fetch(self, ask: ListAsk, wanted: Wanted, claim: Claim, purpose: str) -> Fetched:
        sent_at = self._clock()
        response = await self._called(ask, wanted, purpose)
        if response.status != 200:
            return Fetched(response.status, answer=response, accept=ask.accept)
        holding = listed(response.body, sort_keys=ask.sort.nullable, public=ask.public)
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
        fields = ask.fields.plus(("Accept-Encoding", READABLE), ("User-Agent", _USER_AGENT))
        started = self._clock()
        status = "aborted"
        try:
            request = Request("GET", target, Fields(fields), request_id="", claimant=_claimant(ask, purpose))
            if ask.who.signing is not None:
                request = ask.who.signing.signed(request, now=started)
            response = await self._upstream.fetch(request)
            status = str(response.status)
        except ProxyError as error:
            status = error.code
            raise
        finally:
            self._telemetry.called(purpose=purpose, status=status, elapsed_s=max(0.0, self._clock() - started))
        return response

    async def _claim(self, ask: ListAsk, wanted: Wanted) -> Claim:
        try:
            return await self._store.claim(ask.key, wanted.after, now=self._clock())
        except StoreUnavailableError:
            return Claim(State(wanted.generation), 0)

    async def _settle(self, ask: ListAsk, wanted: Wanted, claim: Claim) -> None:
        try:
            await self._store.settle(ask.key, wanted.after, claim)
        except StoreUnavailableError:
            return  # the claim lapses by itself

    async def _settled(self, ask: ListAsk, wanted: Wanted) -> None:
        try:
            await self._store.settled(ask.key, wanted.after, timeout_s=_CLAIM_WAIT_S)
        except StoreUnavailableError:
            return  # the next claim says how it stands

    async def _elsewhere(self, ask: ListAsk, wanted: Wanted) -> Span | None:
        """Return the span that another replica has fetched, if it is one to use."""
        try:
            found = await self._store.chain(ask.key, wanted.after, 1, now=self._clock())
        except StoreUnavailableError:
            return None
        if not found.pieces or found.pieces[0].start:
            return None
        span = found.pieces[0].span
        stands = standing(span, ask.lifetimes, generation=found.state.generation, now=self._clock())
        return span if stands is Standing.FRESH else None


def _claimant(ask: ListAsk, purpose: str) -> Claimant:
    """Return for whom *ask* is fetched; what nobody waits for takes a call that is free, or none."""
    if purpose not in _UNAWAITED:
        return ask.claimant
    return replace(ask.claimant, priority=_UNAWAITED[purpose], patient=False)
