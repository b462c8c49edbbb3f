"""What a list request asks for: the values that decide its answer, and nothing else of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from proxy.core.directives import Directives, directives
from proxy.core.freshness import Lifetimes
from proxy.core.identity import Partitioner, Unshared, variant
from proxy.core.keys import ListingKey
from proxy.core.listing import HEAD
from proxy.core.messages import Fields, Request
from proxy.core.page import EXTENSION_PATH
from proxy.core.query import Sort, Unclear, Window, parsed
from proxy.core.routes import bypass
from proxy.core.rules import Rules


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
class Asking:
    """How lists are asked for: the rules that hold for all requests.

    *extension* says that native lists come from `/v2/cloudimages`, which outlives `/v2/images` at Huawei Cloud.
    """

    partitioner: Partitioner
    sizes: PageSizes
    rules: Rules
    extension: bool = False


@dataclass(frozen=True, slots=True)
class ListAsk:
    """One list request: *key* names the listing, *after* and *rows* the page.

    *fields* are those that go upstream, to *source*; each is in the key or can't change a list. *accept* is the form
    that errors are wanted in.
    """

    key: ListingKey
    sort: Sort
    window: Window
    after: str
    rows: int
    source: str
    fields: Fields
    accept: str
    lifetimes: Lifetimes
    directives: Directives

    @property
    def unlinked(self) -> bool:
        """Whether the list comes without `next`."""
        return self.source == EXTENSION_PATH


# `Accept` changes the form of errors, never that of a list: Glance knows only JSON for one.
_SENT: Final = ("x-auth-token", "accept")


def asked(request: Request, asking: Asking) -> ListAsk | str:
    """Return what the list *request* asks for, or why it must go through as it came."""
    wishes = directives(request.fields)
    reason = "no-store" if wishes.no_store else bypass(request)
    query = parsed(request.query)
    if reason or isinstance(query, Unclear):
        return reason or query.reason  # type: ignore[union-attr]  # a reason, or an unclear query
    partition = asking.partitioner.of(request.fields)
    if isinstance(partition, Unshared):
        return partition.value
    form = variant(request.fields)
    window, sort = query.window, query.sort
    rows = asking.sizes.rows(window, request.path)
    by_page = not sort.windowed or rows == 0
    sent = request.fields.only(_SENT).plus(("X-Request-Id", request.request_id))
    return ListAsk(
        key=ListingKey(partition, form, request.path, query.canonical, window if by_page else None),
        sort=sort,
        window=window,
        after=window.marker or HEAD,
        rows=rows,
        source=EXTENSION_PATH if asking.extension else request.path,
        fields=sent.plus(("X-Api-Version", form)) if form else sent,
        accept=", ".join(request.fields.all("accept")),
        lifetimes=asking.rules.lifetimes(request.path, query.pairs),
        directives=wishes,
    )
