"""From a window to a page: look in the store, fetch what is missing, splice.

Only what is missing is fetched, after the last known marker, in strides that grow while the caller keeps paging.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

from proxy.auth.token_acceptance import Credentials, Drop
from proxy.caching.background import Background
from proxy.caching.bounded import NEGATIVE, Negatives
from proxy.core.cache_status import CacheStatus, Fwd
from proxy.core.freshness import ERRORS, Standing, Verdicts, current_age
from proxy.core.span import HEAD, Gap, Page, Piece, Span, cover
from proxy.errors import NotInStoreError, ProxyError, TooManyCallsError
from proxy.http.cache_control import NONE
from proxy.listing.fetcher import Fetched, Fetcher, Wanted
from proxy.listing.lookup import Listed, Looking, Repeatable, Trail, seen
from proxy.listing.marker_recovery import LOST, Footing
from proxy.listing.prefetch import Readahead, Strides, Thrift
from proxy.listing.request import ListAsk
from proxy.storage.base import Found, SpanStore

_MAX_FETCHES: Final = 48
_MAX_BACKGROUND: Final = 64
_KEY_BYTES: Final = 800  # what a listing's name takes beside its query


class ListingGateway:
    """Answers list requests from spans in *store*, which *fetcher* fills. *clock* gives epoch seconds.

    *readahead* sizes fetches, *verdicts* says how long a caller's admission is believed, *negative_s* how long a 400 or
    404 is remembered. *drop* takes back what IAM said of a token that the upstream refuses.
    """

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
        thrift: Thrift | None = None,
    ) -> None:
        self._fetcher = fetcher
        self._store = store
        self.credentials = Credentials(store, verdicts=verdicts, clock=clock, drop=drop)
        self._look = Looking(store, self.credentials, clock=clock)
        self._thrift = thrift or Thrift()
        self._strides = Strides(readahead, self._look, thrift=self._thrift, clock=clock)
        self._footing = Footing(fetcher, store, longest=readahead.longest, clock=clock)
        self._clock = clock
        self._refused = Negatives(for_s=negative_s, clock=clock)
        self.background = Background(_MAX_BACKGROUND)

    @property
    def epoch(self) -> int | None:
        """A number that changes with every invalidation and with `Credentials.rejections`; see `SpanStore.epoch`."""
        epoch = self._store.epoch
        return None if epoch is None else epoch + self.credentials.rejections

    async def close(self) -> None:
        """End what is under way."""
        await self.background.close()
        await self._fetcher.close()

    async def shows(self, ask: ListAsk) -> bool:
        """See `Footing.shows`."""
        return await self._footing.shows(ask)

    async def answer(self, ask: ListAsk) -> Listed:
        """Return the page that *ask* asks for, or the upstream's own answer where it gave no list.

        Raises `ProxyError` where the upstream gave none at all and nothing stored may stand in for it.
        """
        trail = Trail()
        gap = Gap(ask.after, ask.rows, ())
        for _ in range(_MAX_FETCHES):
            found = await self._look.found(ask, gap)
            got: Page | Gap | Listed = self._look.covered(ask, gap, found, Standing.FRESH)
            if isinstance(got, Gap):
                if trail.fwd is None and (given := self._without_fetch(ask, gap, found)):
                    return given
                got = await self._filled(ask, got, found, trail)
            match got:
                case Listed():
                    return got
                case Page():
                    return self._given(ask, got, trail)
                case Gap():
                    gap = got
        raise ProxyError(f"listing: not joined within {_MAX_FETCHES} fetches")

    async def _filled(self, ask: ListAsk, gap: Gap, found: Found, trail: Trail) -> Page | Gap | Listed:
        """Return the page once *gap* has been fetched, or what it still lacks, or what is given in its place."""
        trail.fwd = trail.fwd or _why_forward(gap, found)
        got = await self._got(ask, gap, found, trail)
        if gap.pieces and isinstance(got, Listed) and got.answer and got.answer.status in LOST:
            # It is not the caller's marker that is gone but one between spans, so what is stored leads nowhere.
            gap, found = Gap(ask.after, ask.rows, ()), replace(found, pieces=(), behind=0)
            got = await self._got(ask, gap, found, trail)
        if isinstance(got, Listed):
            return got
        covered = cover(ask.after, ask.rows, [*gap.pieces, Piece(got, 0)], joinable=ask.sort.immovable)
        if isinstance(covered, Gap) and covered.after == got.after and got.whole:
            self._strides.cannot_cut(ask, got)
        return covered

    def _without_fetch(self, ask: ListAsk, gap: Gap, found: Found) -> Listed | None:
        """Return what can be given at once in place of a fresh page: a stale one, or a refusal that is remembered.

        None where there is neither; raises `NotInStoreError` if the caller wants nothing fetched then.
        """
        stale = self._look.covered(ask, gap, found, Standing.REVALIDATE)
        if isinstance(stale, Page) and self._thrift.forbids("revalidate", ask.claimant.partition):
            return self._given(ask, stale, Trail(detail="thrift"))
        if isinstance(stale, Page):
            for part in stale.parts:
                size = max(part.span.asked, 1)
                if self._look.standing(ask, part.span, found.state) < Standing.FRESH:
                    wanted = Wanted(
                        part.span.after, size, found.state.generation, part.span.fetched_at, found.join_after
                    )
                    self.background.do(self._revalidated(ask, wanted))
            return self._given(ask, stale, Trail(detail="stale-while-revalidate"))
        refused = self._refused.given(_refusal(ask, found))
        if refused is not None and ask.directives.max_age_s is None:
            return Listed(None, refused, CacheStatus(detail="negative"))
        if ask.directives.only_if_cached:
            raise NotInStoreError("listing: not in the store, and the caller sent only-if-cached")
        return None

    async def _got(self, ask: ListAsk, gap: Gap, found: Found, trail: Trail) -> Span | Listed:
        """Return the span fetched for *gap*, or what is given in place of the page."""
        last_resort = found.as_last_resort
        stale_will_do = isinstance(self._look.covered(ask, gap, last_resort, Standing.IF_ERROR), Page)
        asking = replace(ask, claimant=replace(ask.claimant, patient=False)) if stale_will_do else ask
        try:
            fetched, follows = await self._fetcher.fetched(asking, self._strides.wanted(ask, gap, found))
        except ProxyError as error:
            throttled = isinstance(error, TooManyCallsError)
            if given := self._if_error(ask, gap, last_resort if throttled else found, trail):
                if throttled:
                    given = replace(given, cache_status=replace(given.cache_status, detail="stale-while-waiting"))
                return given
            raise
        vanished = fetched.span is None and fetched.status in NEGATIVE and gap.after != HEAD
        if vanished and (span := await self._footing.behind(ask, gap, found)):
            trail.fetched(Fetched(200, span=span, stored=True, detail="vanished-marker"), follows=False)
            return span
        trail.fetched(fetched, follows=follows)
        if fetched.span is not None:
            self.credentials.accepted(ask.who, sent_at=fetched.span.fetched_at)
            return fetched.span
        assert fetched.answer is not None
        if fetched.status == 401:
            await self.credentials.rejected(ask.who)
        if not (gap.pieces or ask.public):  # who share a public list share no partition
            self._refused.keep(_refusal(ask, found), fetched.answer)
        given = self._if_error(ask, gap, found, trail) if fetched.status in ERRORS else None
        return given or Listed(None, fetched.answer, trail.status())

    def _if_error(self, ask: ListAsk, gap: Gap, found: Found, trail: Trail) -> Listed | None:
        page = self._look.covered(ask, gap, found, Standing.IF_ERROR)
        if not isinstance(page, Page):
            return None
        trail.detail = "stale-if-error"
        return self._given(ask, page, trail)

    def _given(self, ask: ListAsk, page: Page, trail: Trail) -> Listed:
        now = self._clock()
        spans = [part.span for part in page.parts]
        ages = [current_age(span.fetched_at, now=now) for span in spans]
        ttl_s = min(span.lifetime_s - age for span, age in zip(spans, ages, strict=True))
        if ttl_s > 0:
            self._read_ahead(ask, page)
        age_s = max(ages)
        hit = trail.fwd is None and trail.detail is None and ttl_s > 0
        repeatable = self._repeatable(ask, page, now - age_s, now + ttl_s) if hit else None
        return Listed(page, None, trail.status(ttl_s), age_s=age_s, ttl_s=ttl_s, repeatable=repeatable)

    def _repeatable(self, ask: ListAsk, page: Page, fetched_at: float, fresh_until: float) -> Repeatable | None:
        if ask.directives != NONE:
            return None  # what the caller demands of age and lifetime is looked at each time
        self.credentials.shown(ask.who)
        believed_until = self.credentials.believed_until(ask.who, fetched_at=fetched_at)
        until = min(fresh_until, believed_until, ask.who.expires_at)
        # Not by way of `ask`, which has the request, token and all: this is kept for long.
        used = partial(self._store.used, ask.key, [part.span.after for part in page.parts])
        return Repeatable(fetched_at, fresh_until, until, used, holds_bytes=_KEY_BYTES + len(ask.key.query))

    def _read_ahead(self, ask: ListAsk, page: Page) -> None:
        """Fetch the next span in the background where the caller is about to reach it."""
        if wanted := self._strides.ahead(ask, page):
            self.background.do(self._fetched_ahead(ask, wanted))

    async def _fetched_ahead(self, ask: ListAsk, wanted: Wanted) -> None:
        found = await self._look.found(ask, Gap(wanted.after, 1, ()))
        if found.pieces and self._look.standing(ask, found.pieces[0].span, found.state) is Standing.FRESH:
            return
        wanted = replace(wanted, seen=seen(found, wanted.after))
        try:
            await self._fetcher.fetched(ask, wanted, purpose="readahead")
        except TooManyCallsError:
            self._strides.not_read(ask, wanted)
            raise

    async def _revalidated(self, ask: ListAsk, wanted: Wanted) -> None:
        fetched, _ = await self._fetcher.fetched(ask, wanted, purpose="revalidate")
        if fetched.span is not None:
            self.credentials.accepted(ask.who, sent_at=fetched.span.fetched_at)
        elif fetched.status == 401:
            await self.credentials.rejected(ask.who)


def _why_forward(gap: Gap, found: Found) -> Fwd:
    if gap.pieces:
        return Fwd.PARTIAL
    return Fwd.STALE if found.pieces else Fwd.URI_MISS


def _refusal(ask: ListAsk, found: Found) -> tuple[str, str, str, int, str]:
    return (ask.key.digest, found.moment, ask.after, ask.rows, ask.accept)
