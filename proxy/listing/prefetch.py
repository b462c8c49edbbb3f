"""How big the next fetch is: like a kernel's readahead, small at first, growing while callers keep paging.

A page costs the upstream about as much as its rows do (Glance: 44 ms for 25, 1.6 s for 1,000), so a caller who only
looks something up must not pay for a crawl; one who crawls has a call saved for each page that is read ahead.

Where an upstream lets 200 calls a minute through, a call is worth as much time as 190 rows. The caller of a second page
is taken to go on as likely as not, so what is fetched for it in vain, 175 rows behind a first page of 25, may be about
that much: hence `GROWTH`. Three calls then are a listing of 1,200 images.

What is left undone while a budget runs low: fetches that no caller waits for.

How much to fetch of a listing: what a caller lacks now, and what it will ask for next if it keeps paging.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Final

from proxy.caching.bounded import Memo
from proxy.core.freshness import Standing
from proxy.core.span import HEAD, Gap, Page, Span
from proxy.core.values import immutable
from proxy.http.cache_control import NONE
from proxy.listing.fetcher import Wanted
from proxy.listing.lookup import Looking, seen
from proxy.listing.request import ListAsk
from proxy.storage.base import Found

GROWTH: Final = 8
MINIMUM: Final = 25
LOOK_UP: Final = 5  # pages shorter than this are look-ups, and cost what they ask for


@immutable
class Readahead:
    """The rule; *longest* is the longest page that the upstream gives, *enabled* whether a span may exceed a page."""

    longest: int
    enabled: bool = True

    def first(self, rows: int) -> int:
        """Return the size of the first fetch for a caller who wants *rows*: its page, or a sensible minimum."""
        if not self.enabled or rows < LOOK_UP:
            return rows
        return min(max(rows, MINIMUM), self.longest)

    def next(self, rows: int, *, previous: int, whole_pages: bool = False) -> int:
        """Return the size of the fetch for a caller who wants *rows* and paged on behind a span of *previous*.

        With *whole_pages* no page may be joined from two spans: what is fetched beyond the last whole page is fetched
        again with the page it begins.
        """
        size = self.first(rows)
        if self.enabled and previous:
            size = min(max(rows, GROWTH * previous), self.longest)
        return size - size % rows if whole_pages else size

    def ahead(self, *, left: int, page: int, span: int, paging: bool) -> bool:
        """Whether to fetch the next span before the caller reaches it.

        *left* images follow the page that was just given, in a span of *span*; *paging* says that the page was not the
        first. The next span is due when the caller is past the middle of this one, or one page from its end.
        """
        return self.enabled and paging and page >= LOOK_UP and left <= max(span // 2, page)


@immutable
class Thrift:
    """*low* says of a partition whether its budget runs low; *saved* is told the purpose of each fetch left undone."""

    low: Callable[[str], bool] = lambda _: False
    saved: Callable[[str], None] = lambda _: None

    def forbids(self, purpose: str, partition: str) -> bool:
        """Return whether a fetch for *purpose* has to be left undone, and count it if so."""
        if not self.low(partition):
            return False
        self.saved(purpose)
        return True


_REMEMBERED: Final = 10_000


class Strides:
    """Sizes fetches by the rule *readahead*. *clock* gives epoch seconds."""

    def __init__(
        self,
        readahead: Readahead,
        look: Looking,
        *,
        thrift: Thrift,
        clock: Callable[[], float],
    ) -> None:
        self._readahead = readahead
        self._look = look
        self._thrift = thrift
        self._clock = clock
        self._exact: Memo[bool] = Memo(_REMEMBERED)  # listings that are fetched page by page
        self._begun: Memo[bool] = Memo(_REMEMBERED)  # spans that were read ahead, or are being so

    def wanted(self, ask: ListAsk, gap: Gap, found: Found) -> Wanted:
        """Return the span to fetch for *gap*: the longer, the farther its caller has paged on."""
        size = gap.count
        if ask.key.page is None and not self._page_by_page(ask):
            previous = gap.pieces[-1].span.asked if gap.pieces else max(found.behind, self._too_short(ask, gap, found))
            size = self._readahead.next(gap.count, previous=previous, whole_pages=not ask.sort.immovable)
        last_seen = inf if ask.directives != NONE else seen(found, gap.after)
        return Wanted(gap.after, size, found.state.generation, last_seen, found.join_after)

    def ahead(self, ask: ListAsk, page: Page) -> Wanted | None:
        """Return the span to fetch in the background now that *page* is given, None where there is none to fetch."""
        last = page.parts[-1]
        span = last.span
        left = len(span.ids) - last.stop
        if span.stops or span.end is None or ask.key.page is not None:
            return None
        if not self._readahead.ahead(left=left, page=ask.rows, span=len(span.ids), paging=ask.after != HEAD):
            return None
        size = self._readahead.next(ask.rows, previous=span.asked, whole_pages=not ask.sort.immovable)
        wanted = Wanted(span.end, size, span.generation, inf)
        now = self._clock()
        if self._begun.get(_name(ask, wanted), now=now) or self._page_by_page(ask):
            return None
        if self._thrift.forbids("readahead", ask.claimant.partition):
            return None
        self._begun.put(_name(ask, wanted), True, until=now + span.lifetime_s)
        return wanted

    def not_read(self, ask: ListAsk, wanted: Wanted) -> None:
        """Let *wanted* be read ahead another time: there was no call to spare for it."""
        self._begun.forget(_name(ask, wanted))

    def cannot_cut(self, ask: ListAsk, span: Span) -> None:
        """Fetch the listing of *ask* page by page from now on, for as long as *span* is fresh, which can't be cut."""
        self._exact.put(ask.key.digest, True, until=self._clock() + span.lifetime_s)

    def _page_by_page(self, ask: ListAsk) -> bool:
        return self._exact.get(ask.key.digest, now=self._clock()) is not None

    def _too_short(self, ask: ListAsk, gap: Gap, found: Found) -> int:
        """Return how many rows were asked for with a fresh span that begins where *gap* does and lacks its last rows.

        Where pages can't be joined it is fetched anew; whoever fetched it has paged on since, and so may others.
        """
        if (
            ask.sort.immovable
            or not found.pieces
            or self._look.standing(ask, found.pieces[0].span, found.state) < Standing.FRESH
        ):
            return 0
        return found.pieces[0].span.asked if found.pieces[0].count < gap.count else 0


def _name(ask: ListAsk, wanted: Wanted) -> tuple[str, str, str]:
    return (ask.key.digest, wanted.after, wanted.generation)
