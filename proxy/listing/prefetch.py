"""How much to fetch of a listing: what the caller lacks now, and what it will ask for if it keeps paging.

Sizes work like a kernel's read-ahead: small at first, growing while callers keep paging. A page costs the upstream
about as much as its rows do (Glance: 44 ms for 25 rows, 1.6 s for 1,000), so a caller who looks one image up must not
pay for a crawl; for a caller who crawls, each prefetched page saves a call.

Where an upstream allows 200 calls a minute, a call is worth the time of 190 rows. The caller of a second page goes on
as likely as not, so what is fetched for it in vain, 175 rows behind a first page of 25, may cost about that much: hence
`GROWTH_FACTOR`. Three calls then fetch a listing of 1,200 images.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Final

from proxy.caching.background import BudgetSaver
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
MIN_PREFETCH_ROWS: Final = 5  # shorter pages are lookups, which must not cost more than they ask for
_MAX_ENTRIES: Final = 10_000


@immutable
class FetchSizing:
    """Sizes in rows. *max_page* is the upstream's longest page; *enabled* allows spans longer than the caller's
    page.
    """

    max_page: int
    enabled: bool = True

    def first_size(self, rows: int) -> int:
        if not self.enabled or rows < MIN_PREFETCH_ROWS:
            return rows
        return min(max(rows, MIN_ROWS), self.max_page)

    def next_size(self, rows: int, *, previous: int, whole_pages: bool = False) -> int:
        """Return the size for a caller of pages of *rows* who paged on behind a span of *previous* rows.

        With *whole_pages* no page may be joined from two spans, so rows behind the last whole page would be fetched
        twice.
        """
        size = self.first_size(rows)
        if self.enabled and previous:
            size = min(max(rows, GROWTH_FACTOR * previous), self.max_page)
        return size - size % rows if whole_pages else size

    def is_prefetch_due(self, *, left: int, page: int, span: int, paging: bool) -> bool:
        """Return whether to fetch the next span now.

        *left* of a span of *span* images follow the page that was just served; *paging* says it was not the first page.
        Prefetch is due past the middle of the span, or one page before its end.
        """
        return self.enabled and paging and page >= MIN_PREFETCH_ROWS and left <= max(span // 2, page)


class Prefetcher:
    """Plans fetches and prefetches by *sizing*. *clock* gives epoch seconds."""

    def __init__(
        self, sizing: FetchSizing, lookup: SpanLookup, *, budget_saver: BudgetSaver, clock: Callable[[], float]
    ) -> None:
        self._sizing = sizing
        self._lookup = lookup
        self._budget_saver = budget_saver
        self._clock = clock
        self._page_by_page: TTLMap[bool] = TTLMap(_MAX_ENTRIES)  # listings whose spans can't be cut into pages
        self._prefetched: TTLMap[bool] = TTLMap(_MAX_ENTRIES)

    def plan_fetch(self, request: ListRequest, missing: Missing, found: FoundSpans) -> SpanRequest:
        """Return the span to fetch for *missing*: the longer, the farther its caller has paged on."""
        size = missing.count
        if request.key.page_window is None and not self._is_page_by_page(request):
            if missing.slices:
                previous = missing.slices[-1].span.limit
            else:
                previous = max(found.marker_span_limit, self._limit_of_short_span(request, missing, found))
            size = self._sizing.next_size(missing.count, previous=previous, whole_pages=not request.sort.is_stable)
        newer_than = inf if request.directives != NO_DIRECTIVES else latest_fetch_time(found, missing.marker)
        return SpanRequest(missing.marker, size, found.state.generation, newer_than, found.join_after)

    def plan_prefetch(self, request: ListRequest, page: Page) -> SpanRequest | None:
        """Return the span to prefetch now that *page* is served, if any. It is planned once per span."""
        last = page.parts[-1]
        span = last.span
        if span.completes_page or span.next_marker is None or request.key.page_window is not None:
            return None
        left, paging = len(span.ids) - last.stop, request.marker != LIST_START
        if not self._sizing.is_prefetch_due(left=left, page=request.row_count, span=len(span.ids), paging=paging):
            return None
        size = self._sizing.next_size(request.row_count, previous=span.limit, whole_pages=not request.sort.is_stable)
        span_request = SpanRequest(span.next_marker, size, span.generation, inf)
        now, key = self._clock(), _span_key(request, span_request)
        if self._prefetched.get(key, now=now) or self._is_page_by_page(request):
            return None
        if self._budget_saver.skips("prefetch", request.context.partition):
            return None
        self._prefetched.put(key, True, until=now + span.lifetime_s)
        return span_request

    def forget_prefetch(self, request: ListRequest, span_request: SpanRequest) -> None:
        """Let a prefetch that got no call be planned again."""
        self._prefetched.forget(_span_key(request, span_request))

    def fetch_page_by_page(self, request: ListRequest, span: Span) -> None:
        """Fetch this listing page by page while *span* is fresh: it can't be cut."""
        self._page_by_page.put(request.key.digest, True, until=self._clock() + span.lifetime_s)

    def _is_page_by_page(self, request: ListRequest) -> bool:
        return self._page_by_page.get(request.key.digest, now=self._clock()) is not None

    def _limit_of_short_span(self, request: ListRequest, missing: Missing, found: FoundSpans) -> int:
        """Return the limit of a fresh span that starts where *missing* does but is shorter, 0 if there is none.

        Where pages can't be joined it has to be fetched anew. Its first caller has paged on since, so others may too.
        """
        if request.sort.is_stable or not found.slices or found.slices[0].count >= missing.count:
            return 0
        span = found.slices[0].span
        return span.limit if self._lookup.freshness(request, span, found.state) is Freshness.FRESH else 0


def _span_key(request: ListRequest, span_request: SpanRequest) -> tuple[str, str, str]:
    return (request.key.digest, span_request.marker, span_request.generation)
