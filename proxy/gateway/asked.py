"""What a list request asks for: the values that decide its answer, and nothing else of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from proxy.core.identity import Partition, Partitioner, Unshared, variant
from proxy.core.keys import ListingKey
from proxy.core.listing import HEAD
from proxy.core.messages import Fields, Request
from proxy.core.page import EXTENSION_PATH
from proxy.core.query import Sort, Unclear, Window, parsed
from proxy.core.routes import bypass


@dataclass(frozen=True, slots=True)
class PageSizes:
    """The upstream's page sizes: the longest it gives, and what it gives when no `limit` is sent."""

    longest: int = 1000
    default: int = 25
    default_extension: int = 500

    def rows(self, window: Window, path: str) -> int:
        """Return how many rows a page of *window* holds."""
        if window.limit is None:
            return min(self.longest, self.default_extension if path == EXTENSION_PATH else self.default)
        return min(self.longest, window.limit)


@dataclass(frozen=True, slots=True)
class ListAsk:
    """One list request: *key* names the listing, *after* and *rows* the page.

    *fields* are those that go upstream; each is in the key or can't change a list.
    """

    key: ListingKey
    sort: Sort
    window: Window
    after: str
    rows: int
    fields: Fields


# `Accept` changes the form of errors, never that of a list: Glance knows only JSON for one.
_SENT: Final = ("x-auth-token", "accept")


def asked(request: Request, partitioner: Partitioner, sizes: PageSizes) -> ListAsk | str:
    """Return what the list *request* asks for, or why it must go through as it came."""
    if reason := bypass(request):
        return reason
    query = parsed(request.query)
    if isinstance(query, Unclear):
        return query.reason
    partition: Partition | Unshared = partitioner.of(request.fields)
    if isinstance(partition, Unshared):
        return partition.value
    form = variant(request.fields)
    window, sort = query.window, query.sort
    rows = sizes.rows(window, request.path)
    by_page = not sort.windowed or rows == 0
    key = ListingKey(partition, form, request.path, query.canonical, window if by_page else None)
    sent = request.fields.only(_SENT).plus(("X-Request-Id", request.request_id))
    if form:
        sent = sent.plus(("X-Api-Version", form))
    return ListAsk(key, sort, window, window.marker or HEAD, rows, sent)
