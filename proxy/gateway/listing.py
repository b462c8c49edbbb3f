"""From a window to a page: look in the store, fetch what is missing, splice.

Only what is missing is fetched, after the last known marker, in strides that grow while the caller keeps paging.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from typing import Final

from proxy.core.directives import NONE
from proxy.core.freshness import Standing, Verdicts, current_age, standing
from proxy.core.listing import HEAD, Gap, Page, Piece, Span, cover
from proxy.core.messages import Response
from proxy.core.policy import CacheStatus, Fwd
from proxy.core.readahead import Readahead
from proxy.core.vanished import Foothold, continued, footholds
from proxy.errors import NotInStoreError, ProxyError, StoreUnavailableError, TooManyCallsError
from proxy.gateway.asked import ListAsk
from proxy.gateway.background import Background
from proxy.gateway.credentials import Credentials, Drop
from proxy.gateway.fetching import Fetched, Fetcher, Wanted
from proxy.gateway.memos import Memo
from proxy.stores.base import Found, SpanStore, State

_MAX_FETCHES: Final = 48
_MAX_BACKGROUND: Final = 64
_REMEMBERED: Final = 10_000
_REMEMBERED_REFUSALS: Final = 2_000
_MAX_REFUSAL_BYTES: Final = 8 * 1024
# What `stale-if-error` counts as an error (RFC 5861 §4), and a throttled call, which is one for the caller too.
_ERRORS: Final = frozenset({429, 500, 502, 503, 504})
_NEGATIVE: Final = frozenset({400, 404})
_LOST: Final = frozenset({400, 403, 404})  # what a marker is answered with that is gone, or hidden from the caller
_MAX_FOOTHOLDS: Final = 24


@dataclass(frozen=True, slots=True)
class Repeatable:
    """That the same may be answered to every request that is the same in what is decisive (`proxy.core.decisive`),
    unless `ListingGateway.epoch` changes; epoch seconds.

    It may be done *until* the page's lifetime or its caller's admission ends. The page's age counts from *fetched_at*,
    and it is fresh until *fresh_until*.
    """

    fetched_at: float
    fresh_until: float
    until: float


@dataclass(frozen=True, slots=True)
class Listed:
    """A page, or the upstream's answer in its place, and how it came about."""

    page: Page | None
    answer: Response | None
    cache_status: CacheStatus
    age_s: float = 0.0
    ttl_s: float = 0.0
    repeatable: Repeatable | None = None


@dataclass(slots=True)
class _Trail:
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


class ListingGateway:
    """Answers list requests from spans. *clock* gives epoch seconds; *negative_s* is how long a 400 or 404 is kept."""

    def __init__(
        self,
        fetcher: Fetcher,
        store: SpanStore,
        *,
        readahead: Readahead,
        verdicts: Verdicts,
        negative_s: float,
        clock: Callable[[], float],
        drop: Drop | None = None,
        low: Callable[[str], bool] = lambda _: False,
        thrift: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._fetcher = fetcher
        self._store = store
        self._readahead = readahead
        self.credentials = Credentials(store, verdicts=verdicts, clock=clock, drop=drop)
        self._negative_s = negative_s
        self._low = low
        self._thrift = thrift
        self._clock = clock
        self._refused: Memo[Response] = Memo(_REMEMBERED_REFUSALS)
        self._exact: Memo[bool] = Memo(_REMEMBERED)
        self._ahead: Memo[bool] = Memo(_REMEMBERED)
        self.background = Background(_MAX_BACKGROUND)

    @property
    def epoch(self) -> int | None:
        """A number that changes with every invalidation and every rejected credential; see `SpanStore.epoch`."""
        epoch = self._store.epoch
        return None if epoch is None else epoch + self.credentials.rejections

    async def close(self) -> None:
        """End what is under way."""
        await self.background.close()
        await self._fetcher.close()

    async def shows(self, ask: ListAsk) -> bool:
        """Return whether the marker of *ask* is an image that this listing has shown, or there is no marker."""
        try:
            return ask.after == HEAD or await self._store.holding(ask.key, ask.after, now=self._clock()) is not None
        except StoreUnavailableError:
            return False

    async def answer(self, ask: ListAsk) -> Listed:
        """Return the page that *ask* asks for, or the upstream's own answer where it gave no list.

        Raises `ProxyError` where the upstream gave none at all and nothing stored may stand in for it.
        """
        trail = _Trail()
        gap = Gap(ask.after, ask.rows, ())
        for _ in range(_MAX_FETCHES):
            found = await self._found(ask, gap)
            covered = self._covered(ask, gap, found, Standing.FRESH)
            if isinstance(covered, Gap):
                if trail.fwd is None and (given := self._without_fetch(ask, gap, found)):
                    return given
                trail.fwd = trail.fwd or _why_forward(covered, found)
                got = await self._got(ask, covered, found, trail)
                if covered.pieces and isinstance(got, Listed) and got.answer and got.answer.status in _LOST:
                    # Not the caller's marker is gone but one between spans: what is stored leads nowhere any more.
                    covered, found = Gap(ask.after, ask.rows, ()), replace(found, pieces=(), behind=0)
                    got = await self._got(ask, covered, found, trail)
                if isinstance(got, Listed):
                    return got
                pieces = [*covered.pieces, Piece(got, 0)]
                covered = cover(ask.after, ask.rows, pieces, joinable=ask.sort.immovable)
                if isinstance(covered, Gap) and covered.after == got.after and got.whole:
                    # The span can't be cut: from now on this listing is fetched page by page.
                    self._exact.put(ask.key.digest, True, until=self._clock() + got.lifetime_s)
            if isinstance(covered, Page):
                return self._given(ask, covered, trail)
            gap = covered
        raise ProxyError(f"listing: not joined within {_MAX_FETCHES} fetches")

    async def _found(self, ask: ListAsk, gap: Gap) -> Found:
        try:
            return await self._store.chain(
                ask.key, gap.after, gap.count, joinable=ask.sort.immovable, now=self._clock()
            )
        except StoreUnavailableError:
            return Found((), State(""))

    def _covered(self, ask: ListAsk, gap: Gap, found: Found, least: Standing) -> Page | Gap:
        """Return the page from the pieces that stand at *least* so, behind those that *gap* has, or what lacks."""
        pieces = list(gap.pieces)
        for piece in found.pieces:
            if self._standing(ask, piece.span, found.state) < least:
                break
            pieces.append(piece)
        return cover(ask.after, ask.rows, pieces, joinable=ask.sort.immovable)

    def _standing(self, ask: ListAsk, span: Span, state: State) -> Standing:
        now = self._clock()
        age_s = current_age(span.fetched_at, now=now)
        stands = standing(span, ask.lifetimes, generation=state.generation, now=now)
        stands = self.credentials.bound(stands, ask.who, fetched_at=span.fetched_at)
        wishes = ask.directives
        too_old = wishes.max_age_s is not None and (age_s > wishes.max_age_s or wishes.max_age_s == 0)
        if too_old or 0 < wishes.min_fresh_s > span.lifetime_s - age_s:
            return Standing.GONE
        return stands

    def _without_fetch(self, ask: ListAsk, gap: Gap, found: Found) -> Listed | None:
        """Return what can be given at once though it is not a fresh page: a stale one, or a refusal that is remembered.

        Raises `NotInStoreError` where the caller wants nothing that has to be fetched.
        """
        stale = self._covered(ask, gap, found, Standing.REVALIDATE)
        if isinstance(stale, Page) and self._low(ask.claimant.partition):
            self._thrift("revalidate")
            return self._given(ask, stale, _Trail(detail="thrift"))
        if isinstance(stale, Page):
            for part in stale.parts:
                size = max(part.span.asked, 1)
                if self._standing(ask, part.span, found.state) < Standing.FRESH:
                    wanted = Wanted(part.span.after, size, found.moment, part.span.fetched_at)
                    self.background.do(self._revalidated(ask, wanted))
            return self._given(ask, stale, _Trail(detail="stale-while-revalidate"))
        refused = self._refused.get(_refusal(ask, found), now=self._clock())
        if refused is not None and ask.directives.max_age_s is None:
            return Listed(None, refused, CacheStatus(detail="negative"))
        if ask.directives.only_if_cached:
            raise NotInStoreError("listing: not in the store, and the caller sent only-if-cached")
        return None

    async def _got(self, ask: ListAsk, gap: Gap, found: Found, trail: _Trail) -> Span | Listed:
        """Return the span fetched for *gap*, or what is given in place of the page."""
        something = isinstance(self._covered(ask, gap, found, Standing.IF_ERROR), Page)
        eager = replace(ask, claimant=replace(ask.claimant, patient=False)) if something else ask
        try:
            fetched, follows = await self._fetcher.fetched(eager, self._wanted(ask, gap, found))
        except ProxyError as error:
            if given := self._if_error(ask, gap, found, trail):
                if isinstance(error, TooManyCallsError):
                    given = replace(given, cache_status=replace(given.cache_status, detail="stale-while-waiting"))
                return given
            raise
        vanished = fetched.span is None and fetched.status in _NEGATIVE and gap.after != HEAD
        if vanished and (span := await self._behind_vanished(ask, gap, found)):
            trail.fetched(Fetched(200, span=span, stored=True, detail="vanished-marker"), follows=False)
            return span
        trail.fetched(fetched, follows=follows)
        if fetched.span is not None:
            self.credentials.accepted(ask.who)
            return fetched.span
        assert fetched.answer is not None
        if fetched.status == 401:
            await self.credentials.rejected(ask.who)
        brief = self._negative_s > 0 and len(fetched.answer.body) <= _MAX_REFUSAL_BYTES
        if fetched.status in _NEGATIVE and brief and not gap.pieces:
            self._refused.put(_refusal(ask, found), fetched.answer, until=self._clock() + self._negative_s)
        given = self._if_error(ask, gap, found, trail) if fetched.status in _ERRORS else None
        return given or Listed(None, fetched.answer, trail.status())

    def _wanted(self, ask: ListAsk, gap: Gap, found: Found) -> Wanted:
        size = gap.count
        if ask.key.page is None and not self._exact.get(ask.key.digest, now=self._clock()):
            previous = gap.pieces[-1].span.asked if gap.pieces else max(found.behind, self._too_short(ask, gap, found))
            size = self._readahead.next(gap.count, previous=previous, whole_pages=not ask.sort.immovable)
        return Wanted(gap.after, size, found.moment, inf if ask.directives != NONE else _seen(found, gap.after))

    def _too_short(self, ask: ListAsk, gap: Gap, found: Found) -> int:
        """Return how many rows were asked for with a fresh span that begins where *gap* does and lacks its last rows.

        Where pages can't be joined it is fetched anew; whoever fetched it has paged on since, and so may others.
        """
        if (
            ask.sort.immovable
            or not found.pieces
            or self._standing(ask, found.pieces[0].span, found.state) < Standing.FRESH
        ):
            return 0
        return found.pieces[0].span.asked if found.pieces[0].count < gap.count else 0

    def _if_error(self, ask: ListAsk, gap: Gap, found: Found, trail: _Trail) -> Listed | None:
        page = self._covered(ask, gap, found, Standing.IF_ERROR)
        if not isinstance(page, Page):
            return None
        trail.detail = "stale-if-error"
        return self._given(ask, page, trail)

    async def _behind_vanished(self, ask: ListAsk, gap: Gap, found: Found) -> Span | None:
        """Return the span behind a marker that the upstream no longer knows, if a stored span knows where it stood."""
        holding = back = await self._holding(ask, gap.after)
        if holding is None or ask.key.page is not None or not ask.sort.immovable:
            return None  # where images move, one that stood before the marker may stand behind it now
        steps = footholds(holding)
        for _ in range(_MAX_FOOTHOLDS):
            if not steps:
                back = await self._holding(ask, back.span.after) if back else None
                if back is None:
                    return None
                steps = footholds(back)
            foothold = steps.pop(0)
            size = min(gap.count + foothold.distance, self._readahead.longest)
            wanted = Wanted(foothold.marker, size, found.moment, inf)
            fetched, _ = await self._fetcher.fetched(ask, wanted, purpose="vanished-marker")
            if fetched.span is None:
                if fetched.status not in _LOST:
                    return None
                continue
            span = continued(fetched.span, holding, after=gap.after, order=ask.sort.order)
            if span is not None:
                await self._fetcher.store(ask, span)
                return span
            assert fetched.span.end is not None
            steps = [Foothold(fetched.span.end, 0)]  # all of it stands before the marker, and leads there
        return None

    async def _holding(self, ask: ListAsk, image_id: str) -> Piece | None:
        try:
            return await self._store.holding(ask.key, image_id, now=self._clock())
        except StoreUnavailableError:
            return None

    def _given(self, ask: ListAsk, page: Page, trail: _Trail) -> Listed:
        now = self._clock()
        spans = [part.span for part in page.parts]
        ages = [current_age(span.fetched_at, now=now) for span in spans]
        ttl_s = min(span.lifetime_s - age for span, age in zip(spans, ages, strict=True))
        if ttl_s > 0:
            self._read_ahead(ask, page)
        age_s = max(ages)
        hit = trail.fwd is None and trail.detail is None and ttl_s > 0
        repeatable = self._repeatable(ask, now - age_s, now + ttl_s) if hit else None
        return Listed(page, None, trail.status(ttl_s), age_s=age_s, ttl_s=ttl_s, repeatable=repeatable)

    def _repeatable(self, ask: ListAsk, fetched_at: float, fresh_until: float) -> Repeatable | None:
        if ask.directives != NONE:
            return None  # what the caller demands of age and lifetime is looked at each time
        believed_until = self.credentials.believed_until(ask.who, fetched_at=fetched_at)
        return Repeatable(fetched_at, fresh_until, min(fresh_until, believed_until, ask.who.expires_at))

    def _read_ahead(self, ask: ListAsk, page: Page) -> None:
        """Fetch the next span in the background where the caller is about to reach it."""
        last = page.parts[-1]
        span = last.span
        left = len(span.ids) - last.stop
        if span.stops or span.end is None or ask.key.page is not None:
            return
        if not self._readahead.ahead(left=left, page=ask.rows, span=len(span.ids), paging=ask.after != HEAD):
            return
        at = (ask.key.digest, span.end, span.generation)
        now = self._clock()
        if self._ahead.get(at, now=now) or self._exact.get(ask.key.digest, now=now):
            return
        if self._low(ask.claimant.partition):
            self._thrift("readahead")
            return
        self._ahead.put(at, True, until=now + span.lifetime_s)
        size = self._readahead.next(ask.rows, previous=span.asked, whole_pages=not ask.sort.immovable)
        self.background.do(self._fetched_ahead(ask, Wanted(span.end, size, span.generation, inf)))

    async def _fetched_ahead(self, ask: ListAsk, wanted: Wanted) -> None:
        found = await self._found(ask, Gap(wanted.after, 1, ()))
        if found.pieces and self._standing(ask, found.pieces[0].span, found.state) is Standing.FRESH:
            return
        wanted = replace(wanted, seen=_seen(found, wanted.after))
        try:
            await self._fetcher.fetched(ask, wanted, purpose="readahead")
        except TooManyCallsError:
            self._ahead.forget((ask.key.digest, wanted.after, wanted.generation))  # there may be a call to spare later
            raise

    async def _revalidated(self, ask: ListAsk, wanted: Wanted) -> None:
        fetched, _ = await self._fetcher.fetched(ask, wanted, purpose="revalidate")
        if fetched.span is not None:
            self.credentials.accepted(ask.who)
        elif fetched.status == 401:
            await self.credentials.rejected(ask.who)


def _why_forward(gap: Gap, found: Found) -> Fwd:
    if gap.pieces:
        return Fwd.PARTIAL
    return Fwd.STALE if found.pieces else Fwd.URI_MISS


def _seen(found: Found, after: str) -> float:
    """Return when what *found* has behind *after* was fetched; `inf` where the store could not be looked into."""
    if found.doubt or not found.state.generation:
        return inf
    return max((piece.span.fetched_at for piece in found.pieces if piece.span.after == after), default=-inf)


def _refusal(ask: ListAsk, found: Found) -> tuple[str, str, str, int, str]:
    return (ask.key.digest, found.moment, ask.after, ask.rows, ask.accept)
