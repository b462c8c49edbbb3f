"""What a list request asks for: the values that decide its answer, and nothing else of it.

Lifetimes by rule: which lists live longer or shorter than others, by path and query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from proxy.core.cache_key import ListingKey
from proxy.core.call_context import ANYBODY, Claimant
from proxy.core.freshness import Lifetimes
from proxy.core.list_api import EXTENSION_PATH
from proxy.core.list_query import ListQuery, Pairs, Sort, Unclear, Window, parsed
from proxy.core.messages import Fields, Request
from proxy.core.partition import Partition, Partitioner, Unshared, Who, variant
from proxy.core.routes import bypass
from proxy.core.span import HEAD
from proxy.core.values import immutable
from proxy.http.cache_control import Directives, directives


@immutable
class Rule:
    """Lists at *path*, or at any, whose query holds all of *pairs*, live by *lifetimes*."""

    lifetimes: Lifetimes
    path: str | None = None
    pairs: Pairs = ()

    def matches(self, path: str, pairs: Pairs) -> bool:
        """Whether the listing at *path* with the canonical *pairs* falls under this rule."""
        return self.path in (None, path) and set(self.pairs) <= set(pairs)


@immutable
class Rules:
    """Rules in order, the first that matches counts; *otherwise* for listings that none does."""

    otherwise: Lifetimes
    rules: Sequence[Rule] = ()

    def lifetimes(self, path: str, pairs: Pairs) -> Lifetimes:
        """Return the lifetimes of a listing."""
        matching = (rule.lifetimes for rule in self.rules if rule.matches(path, pairs))
        return next(matching, self.otherwise)

    @property
    def longest_s(self) -> float:
        """The longest that any span is of use, seconds."""
        every = [self.otherwise, *(rule.lifetimes for rule in self.rules)]
        return max(each.ttl_s + each.stale_s for each in every)


# `Accept` changes the form of errors, never that of a list: Glance knows only JSON for one.
_SENT: Final = "accept"
_REMEMBERED_CHARS: Final = 1024
_MOST_NAMED: Final = 4096


@immutable
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


@immutable
class _Named:
    """What a target names, to one partition and in one form of the API; see `ListAsk`."""

    key: ListingKey
    sort: Sort
    window: Window
    after: str
    rows: int
    source: str
    lifetimes: Lifetimes


@dataclass(frozen=True, slots=True, eq=False)
class Asking:
    """How lists are asked for: the rules that hold for all requests.

    *extension* says that native lists come from `/v2/cloudimages`, which outlives `/v2/images` at Huawei Cloud,
    *share_public* that those of public images are the same for everyone.

    What short targets name is remembered, under all that it follows from beside these rules: the partition, the form of
    the API, the target. So nobody's key can come up for somebody else.
    """

    partitioner: Partitioner
    sizes: PageSizes
    rules: Rules
    extension: bool = False
    share_public: bool = False
    _named: dict[tuple[Partition, str, str], _Named] = field(default_factory=dict, init=False, repr=False)

    def named(self, who: Who, form: str, request: Request, query: ListQuery) -> _Named:
        """Return what the target of *request*, with that *query*, names."""
        source = EXTENSION_PATH if self.extension else request.path
        partition = who.member if source == EXTENSION_PATH else who.partition
        at = (partition, form, request.target)
        found = self._named.get(at)
        if found is None:
            found = self._worked_out(partition, form, request.path, query, source)
            if len(request.target) <= _REMEMBERED_CHARS:
                if len(self._named) >= _MOST_NAMED:
                    self._named.clear()
                self._named[at] = found
        return found

    def _worked_out(self, partition: Partition, form: str, path: str, query: ListQuery, source: str) -> _Named:
        window, sort = query.window, query.sort
        rows = self.sizes.rows(window, path)
        by_page = not sort.windowed or rows == 0
        return _Named(
            key=ListingKey(partition, form, path, query.canonical, window if by_page else None),
            sort=sort,
            window=window,
            after=window.marker or HEAD,
            rows=rows,
            source=source,
            lifetimes=self.rules.lifetimes(path, query.pairs),
        )


@immutable
class ListAsk:
    """One list *request* of *who*: *key* names the listing, *after* and *rows* the page.

    *form* is that of the API. With *public* set, an image that is not public has no place in the answer. *claimant*
    says for whom the upstream is asked.
    """

    who: Who
    key: ListingKey
    sort: Sort
    window: Window
    after: str
    rows: int
    source: str
    lifetimes: Lifetimes
    directives: Directives
    request: Request
    form: str
    public: bool = False
    claimant: Claimant = ANYBODY

    @property
    def fields(self) -> Fields:
        """What goes upstream, to *source*; each is in the key or can't change a list."""
        names = (*self.who.credentials, _SENT)
        sent = [line for line in self.request.fields.lines if line[0].lower() in names]
        sent.append(("X-Request-Id", self.request.request_id))
        if self.form:
            sent.append(("X-Api-Version", self.form))
        return Fields(sent)

    @property
    def accept(self) -> str:
        """The form that errors are wanted in."""
        return ", ".join(self.request.fields.all(_SENT))

    @property
    def unlinked(self) -> bool:
        """Whether the list comes without `next`."""
        return self.source == EXTENSION_PATH


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
    named = asking.named(who, form, request, query)
    return ListAsk(
        who=who,
        key=named.key,
        sort=named.sort,
        window=named.window,
        after=named.after,
        rows=named.rows,
        source=named.source,
        lifetimes=named.lifetimes,
        directives=wishes,
        request=request,
        form=form,
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
