"""From a window to a page: look in the store, fetch what is missing, splice.

Only what is missing is fetched, after the last known marker, and one caller at a time fetches it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from proxy.core.answer import NotAList, listed
from proxy.core.freshness import Lifetimes, current_age
from proxy.core.links import page_link
from proxy.core.listing import Gap, Page, Piece, Span, cover
from proxy.core.messages import Fields, Request, Response
from proxy.core.page import EXTENSION_PATH
from proxy.core.policy import CacheStatus, Fwd
from proxy.core.query import Window
from proxy.errors import ProxyError, StoreUnavailableError
from proxy.gateway.asked import ListAsk
from proxy.gateway.coalescer import Coalescer
from proxy.stores.base import Found, SpanStore
from proxy.telemetry import Telemetry
from proxy.upstream.base import Upstream

_MAX_FETCHES: Final = 48
_USER_AGENT: Final = "ims-cache-proxy"


@dataclass(frozen=True, slots=True)
class Fetched:
    """How a flight ended: a *span*, or an upstream's *answer* that is no list and goes to the caller as it is."""

    status: int
    span: Span | None = None
    answer: Response | None = None
    stored: bool = False
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Listed:
    """A page, or the upstream's answer in its place, and how it came about."""

    page: Page | None
    answer: Response | None
    cache_status: CacheStatus
    age_s: float = 0.0
    ttl_s: float = 0.0


@dataclass(slots=True)
class _Trail:
    """How a page came about, for `Cache-Status`."""

    fwd: Fwd | None = None
    fwd_status: int | None = None
    stored: bool = False
    collapsed: bool = False
    detail: str | None = None

    def went_forward(self, gap: Gap, found: Found) -> None:
        """The store left *gap*; the first one says why the request went forward."""
        if self.fwd is None:
            self.fwd = Fwd.PARTIAL if gap.pieces else Fwd.STALE if found.pieces else Fwd.URI_MISS

    def fetched(self, fetched: Fetched, *, follows: bool) -> None:
        """A flight ended."""
        self.fwd_status, self.detail = fetched.status, fetched.detail
        self.collapsed |= follows
        self.stored |= fetched.stored and not follows

    def status(self, ttl_s: float | None = None) -> CacheStatus:
        """Return what is told to the caller."""
        return CacheStatus(self.fwd, self.fwd_status, ttl_s, self.stored, self.collapsed, self.detail)


class ListingGateway:
    """Answers list requests from spans. *clock* gives epoch seconds, *dice* a number from 0 to 1."""

    def __init__(
        self,
        upstream: Upstream,
        store: SpanStore,
        *,
        lifetimes: Lifetimes,
        telemetry: Telemetry,
        clock: Callable[[], float],
        dice: Callable[[], float],
    ) -> None:
        self._upstream = upstream
        self._store = store
        self._lifetimes = lifetimes
        self._telemetry = telemetry
        self._clock = clock
        self._dice = dice
        self._flights: Coalescer[Fetched] = Coalescer()

    async def close(self) -> None:
        """End the fetches that are under way."""
        await self._flights.close()

    async def answer(self, ask: ListAsk) -> Listed:
        """Return the page that *ask* asks for, or the upstream's own answer where it gave no list.

        Raises `ProxyError` where the upstream gave none at all.
        """
        trail = _Trail()
        gap = Gap(ask.after, ask.rows, ())
        for _ in range(_MAX_FETCHES):
            found = await self._found(ask, gap)
            covered = _covered(ask, [*gap.pieces, *_fresh(found, now=self._clock())])
            if isinstance(covered, Gap):
                trail.went_forward(covered, found)
                fetched = await self._flown(ask, covered, trail)
                if fetched.span is None:
                    return Listed(None, fetched.answer, trail.status())
                covered = _covered(ask, [*covered.pieces, Piece(fetched.span, 0)])
            if isinstance(covered, Page):
                return self._page(covered, trail)
            gap = covered
        raise ProxyError(f"listing: not joined within {_MAX_FETCHES} fetches")

    async def _found(self, ask: ListAsk, gap: Gap) -> Found:
        try:
            return await self._store.chain(ask.key, gap.after, gap.count, now=self._clock())
        except StoreUnavailableError:
            return Found((), "")

    async def _flown(self, ask: ListAsk, gap: Gap, trail: _Trail) -> Fetched:
        """Return what fetching *gap* gave, this caller's own fetch or one it follows.

        A follower whose leader came back without a list joins once more, and then asks on its own: nobody is answered
        with what the upstream said to another.
        """
        for _ in range(2):
            follows = self._flights.flying((ask.key.digest, gap.after))
            if follows:
                self._telemetry.collapsed()
            try:
                fetched = await self._flights.join((ask.key.digest, gap.after), lambda: self._fetch(ask, gap))
            except ProxyError:
                if follows:
                    continue
                raise
            if fetched.span is not None or not follows:
                trail.fetched(fetched, follows=follows)
                return fetched
        fetched = await self._fetch(ask, gap)
        trail.fetched(fetched, follows=False)
        return fetched

    async def _fetch(self, ask: ListAsk, gap: Gap) -> Fetched:
        generation = await self._generation(ask)
        sent_at = self._clock()
        response = await self._called(ask, gap)
        if response.status != 200:
            return Fetched(response.status, answer=response)
        holding = listed(response.body, sort_keys=ask.sort.nullable)
        if isinstance(holding, NotAList):
            return Fetched(200, answer=response, detail=holding.reason)
        span = holding.span(
            after=gap.after,
            asked=gap.count,
            unlinked=ask.key.path == EXTENSION_PATH,
            fetched_at=sent_at,
            lifetime_s=self._lifetimes.of(transient=holding.transient, dice=self._dice()),
            generation=generation or "",
        )
        stored = generation is not None and await self._stored(ask, span)
        return Fetched(200, span=span, stored=stored)

    async def _generation(self, ask: ListAsk) -> str | None:
        try:
            return await self._store.generation(ask.key)
        except StoreUnavailableError:
            return None

    async def _stored(self, ask: ListAsk, span: Span) -> bool:
        try:
            await self._store.put(ask.key, span, keep_s=span.lifetime_s, now=self._clock())
        except StoreUnavailableError:
            return False
        return span.lifetime_s > 0

    async def _called(self, ask: ListAsk, gap: Gap) -> Response:
        target = page_link("", ask.key.path, ask.key.query, Window(gap.count), gap.after or None)
        own = Fields([("Accept-Encoding", "gzip"), ("User-Agent", _USER_AGENT)])
        started = self._clock()
        status = "error"
        try:
            response = await self._upstream.fetch(Request("GET", target, Fields([*ask.fields, *own]), request_id=""))
            status = str(response.status)
        except ProxyError as error:
            status = error.code
            raise
        finally:
            self._telemetry.called(purpose="list", status=status, elapsed_s=max(0.0, self._clock() - started))
        return response

    def _page(self, page: Page, trail: _Trail) -> Listed:
        now = self._clock()
        spans = [part.span for part in page.parts]
        ages = [current_age(span.fetched_at, now=now) for span in spans]
        ttl_s = min(span.lifetime_s - age for span, age in zip(spans, ages, strict=True))
        return Listed(page, None, trail.status(ttl_s), age_s=max(ages), ttl_s=ttl_s)


def _covered(ask: ListAsk, pieces: list[Piece]) -> Page | Gap:
    return cover(ask.after, ask.rows, pieces, joinable=ask.sort.immovable)


def _fresh(found: Found, *, now: float) -> list[Piece]:
    """Return the pieces up to the first that is stale or was invalidated."""
    fresh = []
    for piece in found.pieces:
        span = piece.span
        if span.generation != found.generation or current_age(span.fetched_at, now=now) >= span.lifetime_s:
            break
        fresh.append(piece)
    return fresh
