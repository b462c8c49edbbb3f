"""How big the next fetch is: like a kernel's readahead, small at first, growing while callers keep paging.

A page costs the upstream about as much as its rows do (Glance: 44 ms for 25, 1.6 s for 1,000), so a caller who only
looks something up must not pay for a crawl; one who crawls has a call saved for each page that is read ahead.

Where an upstream lets 200 calls a minute through, a call is worth as much time as 190 rows. The caller of a second page
is taken to go on as likely as not, so what is fetched for it in vain, 175 rows behind a first page of 25, may be about
that much: hence `GROWTH_FACTOR`. Three calls then are a listing of 1,200 images.

What is left undone while a budget runs low: fetches that no caller waits for.

How much to fetch of a listing: what a caller lacks now, and what it will ask for next if it keeps paging.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Final

from proxy.caching.bounded import TTLMap
from proxy.core.freshness import Freshness
from proxy.core.span import LIST_START, Missing, Page, Span
from proxy.core.values import immutable
from proxy.http.cache_control import NO_DIRECTIVES
from proxy.listing.fetcher import SpanRequest
from proxy.listing.lookup import SpanLookup, latest_fetch_time
from proxy.listing.request import ListRequest
from proxy.storage.base import FoundSpans

GROWTH_FACTOR: Final = 8
MIN_ROWS: Final = 25
MIN_PREFETCH_ROWS: Final = 5  # pages shorter than this are look-ups, and cost what they ask for


@immutable
class FetchSizing:
    """The rule; *max_page* is the longest page that the upstream gives, *enabled* whether a span may exceed a page."""

    max_page: int
    enabled: bool = True

    def first_size(self, rows: int) -> int:
        """Return the size of the first fetch for a caller who wants *rows*: its page, or a sensible minimum."""
        if not self.enabled or rows < MIN_PREFETCH_ROWS:
            return rows
        return min(max(rows, MIN_ROWS), self.max_page)

    def next_size(self, rows: int, *, previous: int, whole_pages: bool = False) -> int:
        """Return the size of the fetch for a caller who wants *rows* and paged on behind a span of *previous*.

        With *whole_pages* no page may be joined from two spans: what is fetched beyond the last whole page is fetched
        again with the page it begins.
        """
        size = self.first_size(rows)
        if self.enabled and previous:
            size = min(max(rows, GROWTH_FACTOR * previous), self.max_page)
        return size - size % rows if whole_pages else size

    def is_prefetch_due(self, *, left: int, page: int, span: int, paging: bool) -> bool:
        """Whether to fetch the next span before the caller reaches it.

        *left* images follow the page that was just given, in a span of *span*; *paging* says that the page was not the
        first. The next span is due when the caller is past the middle of this one, or one page from its end.
        """
        return self.enabled and paging and page >= MIN_PREFETCH_ROWS and left <= max(span // 2, page)


@immutable
class BudgetSaver:
    """*is_low* says of a partition whether its budget runs low; *on_skipped* is told the purpose of each fetch left
    undone.
    """

    is_low: Callable[[str], bool] = lambda _: False
    on_skipped: Callable[[str], None] = lambda _: None

    def skips(self, purpose: str, partition: str) -> bool:
        """Return whether a fetch for *purpose* has to be left undone, and count it if so."""
        if not self.is_low(partition):
            return False
        self.on_skipped(purpose)
        return True


_MAX_ENTRIES: Final = 10_000


class Prefetcher:
    """Sizes fetches by the rule *readahead*. *clock* gives epoch seconds."""

    def __init__(
        self,
        readahead: FetchSizing,
        look: SpanLookup,
        *,
        budget_saver: BudgetSaver,
        clock: Callable[[], float],
    ) -> None:
        self._sizing = readahead
        self._lookup = look
        self._budget_saver = budget_saver
        self._clock = clock
        self._page_by_page: TTLMap[bool] = TTLMap(_MAX_ENTRIES)  # listings that are fetched page by page
        self._prefetched: TTLMap[bool] = TTLMap(_MAX_ENTRIES)  # spans that were read ahead, or are being so

    def plan_fetch(self, request: ListRequest, missing: Missing, found: FoundSpans) -> SpanRequest:
        """Return the span to fetch for *missing*: the longer, the farther its caller has paged on."""
        size = missing.count
        if request.key.page_window is None and not self._is_page_by_page(request):
            previous = (
                missing.slices[-1].span.limit
                if missing.slices
                else max(found.marker_span_limit, self._limit_of_short_span(request, missing, found))
            )
            size = self._sizing.next_size(missing.count, previous=previous, whole_pages=not request.sort.is_stable)
        last_seen = inf if request.directives != NO_DIRECTIVES else latest_fetch_time(found, missing.marker)
        return SpanRequest(missing.marker, size, found.state.generation, last_seen, found.join_after)

    def plan_prefetch(self, request: ListRequest, page: Page) -> SpanRequest | None:
        """Return the span to fetch in the background now that *page* is given, None where there is none to fetch."""
        last = page.parts[-1]
        span = last.span
        left = len(span.ids) - last.stop
        if span.completes_page or span.next_marker is None or request.key.page_window is not None:
            return None
        if not self._sizing.is_prefetch_due(
            left=left, page=request.row_count, span=len(span.ids), paging=request.marker != LIST_START
        ):
            return None
        size = self._sizing.next_size(request.row_count, previous=span.limit, whole_pages=not request.sort.is_stable)
        span_request = SpanRequest(span.next_marker, size, span.generation, inf)
        now = self._clock()
        if self._prefetched.get(_span_key(request, span_request), now=now) or self._is_page_by_page(request):
            return None
        if self._budget_saver.skips("readahead", request.context.partition):
            return None
        self._prefetched.put(_span_key(request, span_request), True, until=now + span.lifetime_s)
        return span_request

    def forget_prefetch(self, request: ListRequest, span_request: SpanRequest) -> None:
        """Let *span_request* be read ahead another time: there was no call to spare for it."""
        self._prefetched.forget(_span_key(request, span_request))

    def fetch_page_by_page(self, request: ListRequest, span: Span) -> None:
        """Fetch the listing of *request* page by page from now on, for as long as *span* is fresh, which can't be
        cut.
        """
        self._page_by_page.put(request.key.digest, True, until=self._clock() + span.lifetime_s)

    def _is_page_by_page(self, request: ListRequest) -> bool:
        return self._page_by_page.get(request.key.digest, now=self._clock()) is not None

    def _limit_of_short_span(self, request: ListRequest, missing: Missing, found: FoundSpans) -> int:
        """Return how many rows were asked for with a fresh span that begins where *missing* does and lacks its last
        rows.

        Where pages can't be joined it is fetched anew; whoever fetched it has paged on since, and so may others.
        """
        if (
            request.sort.is_stable
            or not found.slices
            or self._lookup.freshness(request, found.slices[0].span, found.state) < Freshness.FRESH
        ):
            return 0
        return found.slices[0].span.limit if found.slices[0].count < missing.count else 0


def _span_key(request: ListRequest, span_request: SpanRequest) -> tuple[str, str, str]:
    return (request.key.digest, span_request.marker, span_request.generation)
