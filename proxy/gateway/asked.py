"""What a list request asks for: the values that decide its answer, and nothing else of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from proxy.core.claimant import ANYBODY, Claimant
from proxy.core.directives import Directives, directives
from proxy.core.freshness import Lifetimes
from proxy.core.identity import Partition, Partitioner, Unshared, Who, variant
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

    *extension* says that native lists come from `/v2/cloudimages`, which outlives `/v2/images` at Huawei Cloud,
    *share_public* that those of public images are the same for everyone.
    """

    partitioner: Partitioner
    sizes: PageSizes
    rules: Rules
    extension: bool = False
    share_public: bool = False


@dataclass(frozen=True, slots=True)
class ListAsk:
    """One list request of *who*: *key* names the listing, *after* and *rows* the page.

    *fields* are those that go upstream, to *source*; each is in the key or can't change a list. *accept* is the form
    that errors are wanted in. With *public* set, an image that is not public has no place in the answer.
    *claimant* says for whom the upstream is asked.
    """

    who: Who
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
    public: bool = False
    claimant: Claimant = ANYBODY

    @property
    def unlinked(self) -> bool:
        """Whether the list comes without `next`."""
        return self.source == EXTENSION_PATH


# `Accept` changes the form of errors, never that of a list: Glance knows only JSON for one.
_SENT: Final = "accept"


def asked(
    request: Request, asking: Asking, who: Who | Unshared | None = None, claimant: Claimant = ANYBODY
) -> ListAsk | str:
    """Return what the list *request* asks for, or why it must go through as it came.

    It is *who*'s; None leaves it to its token alone. *claimant* says for whom the upstream is asked.
    """
    wishes = directives(request.fields)
    reason = "no-store" if wishes.no_store else bypass(request)
    query = parsed(request.query)
    if reason or isinstance(query, Unclear):
        return reason or query.reason  # type: ignore[union-attr]  # a reason, or an unclear query
    who = who or _by_token(request.fields, asking.partitioner)
    if isinstance(who, Unshared):
        return who.value
    form = variant(request.fields)
    window, sort = query.window, query.sort
    rows = asking.sizes.rows(window, request.path)
    by_page = not sort.windowed or rows == 0
    source = EXTENSION_PATH if asking.extension else request.path
    partition = who.member if source == EXTENSION_PATH else who.partition
    names = (*who.credentials, _SENT)
    sent = [line for line in request.fields.lines if line[0].lower() in names]
    sent.append(("X-Request-Id", request.request_id))
    if form:
        sent.append(("X-Api-Version", form))
    return ListAsk(
        who=who,
        key=ListingKey(partition, form, request.path, query.canonical, window if by_page else None),
        sort=sort,
        window=window,
        after=window.marker or HEAD,
        rows=rows,
        source=source,
        fields=Fields(sent),
        accept=", ".join(request.fields.all("accept")),
        lifetimes=asking.rules.lifetimes(request.path, query.pairs),
        directives=wishes,
        claimant=claimant,
    )


def _by_token(fields: Fields, partitioner: Partitioner) -> Who | Unshared:
    partition = partitioner.of(fields)
    return Who(partition, partition) if isinstance(partition, Partition) else partition


def shared_by_all(ask: ListAsk, asking: Asking) -> ListAsk | None:
    """Return *ask* for the list that everyone shares, None where it is not the same for everyone.

    It is where the list is restricted to public images by `visibility`, once. `__imagetype=gold` alone says less: to
    Glance it is a property like others, which anyone may give to a private image. `/v2/cloudimages` may differ from
    user to user. Which images a role may not see, and which of their properties, no request tells: that is why sharing
    is off by default.
    """
    if not (asking.share_public and ask.who.public) or ask.source == EXTENSION_PATH:
        return None
    query = parsed(ask.key.query)
    assert not isinstance(query, Unclear)
    if [value for name, value in query.pairs if name == "visibility"] != ["public"]:
        return None
    return replace(ask, key=replace(ask.key, partition=asking.partitioner.public), public=True)
