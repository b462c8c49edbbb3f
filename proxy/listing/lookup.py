"""What the store has of a window, and what of that a caller may be given.

What a list request is answered with, and how that came about.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf

from proxy.auth.token_acceptance import Credentials
from proxy.core.cache_status import CacheStatus, Fwd
from proxy.core.freshness import Standing, current_age, standing
from proxy.core.messages import Response
from proxy.core.span import Gap, Page, Span, cover
from proxy.core.values import immutable
from proxy.errors import StoreUnavailableError
from proxy.listing.fetcher import Fetched
from proxy.listing.request import ListAsk
from proxy.storage.base import Found, SpanStore, State


class Looking:
    """Looks into *store* for callers whose *credentials* are known. *clock* gives epoch seconds."""

    def __init__(self, store: SpanStore, credentials: Credentials, *, clock: Callable[[], float]) -> None:
        self._store = store
        self._credentials = credentials
        self._clock = clock

    async def found(self, ask: ListAsk, gap: Gap) -> Found:
        """Return what the store has of *gap*; nothing where it can't be asked."""
        try:
            return await self._store.chain(
                ask.key, gap.after, gap.count, joinable=ask.sort.immovable, now=self._clock()
            )
        except StoreUnavailableError:
            return Found((), State(""))

    def covered(self, ask: ListAsk, gap: Gap, found: Found, least: Standing) -> Page | Gap:
        """Return the page, or what it still lacks, from the pieces of *gap* and the usable ones in *found* behind them.

        A piece is usable if its standing is *least* or higher; after the first that is not, the others don't count.
        """
        if not (gap.pieces or found.pieces):
            return Gap(ask.after, ask.rows, ())
        pieces = list(gap.pieces)
        for piece in found.pieces:
            if self.standing(ask, piece.span, found.state) < least:
                break
            pieces.append(piece)
        return cover(ask.after, ask.rows, pieces, joinable=ask.sort.immovable)

    def standing(self, ask: ListAsk, span: Span, state: State) -> Standing:
        """Return what *span* may be used for in answering *ask*; *state* is that of the span's listing."""
        now = self._clock()
        age_s = current_age(span.fetched_at, now=now)
        if ask.directives.exclude(age_s=age_s, left_s=span.lifetime_s - age_s):
            return Standing.GONE
        stands = standing(span, ask.lifetimes, generation=state.generation, now=now)
        return self._credentials.bound(stands, ask.who, fetched_at=span.fetched_at)


def seen(found: Found, after: str) -> float:
    """Return when the latest span that *found* has after the marker *after* was fetched, epoch seconds.

    `-inf` where it has none, `inf` where the store could not be asked or not be believed.
    """
    if found.doubt or not found.state.generation:
        return inf
    return max((piece.span.fetched_at for piece in found.pieces if piece.span.after == after), default=-inf)


@immutable
class Repeatable:
    """Leave to repeat an answer, without asking the gateway, to every request whose decisive fields are the same.

    `proxy.gateway.relevant_headers` says which fields those are. The leave ends *until* then, with the answer's
    lifetime or its caller's admission, and at once when `ListingGateway.epoch` changes. The answer's age counts from
    *fetched_at*, and it is fresh until *fresh_until*; all three are epoch seconds. Whoever repeats the answer calls
    *used* now and then, or the store will take its spans for something that nobody asks for any more.

    *used* keeps about *holds_bytes* in memory.
    """

    fetched_at: float
    fresh_until: float
    until: float
    used: Callable[[], None] = field(default=lambda: None, compare=False)
    holds_bytes: int = field(default=0, compare=False)


@immutable
class Listed:
    """A page, or the upstream's answer in its place, and how it came about."""

    page: Page | None
    answer: Response | None
    cache_status: CacheStatus
    age_s: float = 0.0
    ttl_s: float = 0.0
    repeatable: Repeatable | None = None


@dataclass(slots=True)
class Trail:
    """How a page came about, for `Cache-Status`."""

    fwd: Fwd | None = None
    fwd_status: int | None = None
    stored: bool = False
    collapsed: bool = False
    detail: str | None = None

    def fetched(self, fetched: Fetched, *, follows: bool) -> None:
        """A fetch ended."""
        self.fwd_status, self.detail = fetched.status, fetched.detail
        self.collapsed |= follows
        self.stored |= fetched.stored and not follows

    def status(self, ttl_s: float | None = None) -> CacheStatus:
        """Return what is told to the caller."""
        return CacheStatus(self.fwd, self.fwd_status, ttl_s, self.stored, self.collapsed, self.detail)
