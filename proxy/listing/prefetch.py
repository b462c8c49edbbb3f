"""How big the next fetch is: like a kernel's readahead, small at first, growing while callers keep paging.

A page costs the upstream about as much as its rows do (Glance: 44 ms for 25, 1.6 s for 1,000), so a caller who only
looks something up must not pay for a crawl; one who crawls has a call saved for each page that is read ahead.

Where an upstream lets 200 calls a minute through, a call is worth as much time as 190 rows. The caller of a second page
is taken to go on as likely as not, so what is fetched for it in vain, 175 rows behind a first page of 25, may be about
that much: hence `GROWTH`. Three calls then are a listing of 1,200 images.
"""

from __future__ import annotations

from typing import Final

from proxy.core.values import immutable

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
