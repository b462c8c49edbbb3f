"""What the store has of a window, and what of that a caller may be given."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from proxy.auth.token_acceptance import Credentials
from proxy.core.freshness import Standing, current_age, standing
from proxy.core.span import Gap, Page, Span, cover
from proxy.errors import StoreUnavailableError
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
