"""What a list request asks for: the values that decide its answer, and nothing else of it.

Lifetimes by rule: which lists live longer or shorter than others, by path and query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from proxy.core.cache_key import CacheKey
from proxy.core.call_context import DEFAULT_CONTEXT, CallContext
from proxy.core.freshness import Lifetimes
from proxy.core.list_api import CLOUDIMAGES_PATH
from proxy.core.list_query import ListQuery, Pairs, SortOrder, UnclearQuery, Window, parse_list_query
from proxy.core.messages import Fields, Request
from proxy.core.partition import NotShareable, Partition, Partitioner, Principal, api_variant
from proxy.core.routes import bypass_reason
from proxy.core.span import LIST_START
from proxy.core.values import immutable
from proxy.http.cache_control import RequestDirectives, parse_request_directives


@immutable
class LifetimeRule:
    """Lists at *path*, or at any, whose query holds all of *pairs*, live by *lifetimes*."""

    lifetimes: Lifetimes
    path: str | None = None
    pairs: Pairs = ()

    def matches(self, path: str, pairs: Pairs) -> bool:
        """Whether the listing at *path* with the canonical *pairs* falls under this rule."""
        return self.path in (None, path) and set(self.pairs) <= set(pairs)


@immutable
class LifetimeRules:
    """Rules in order, the first that matches counts; *default* for listings that none does."""

    default: Lifetimes
    rules: Sequence[LifetimeRule] = ()

    def for_listing(self, path: str, pairs: Pairs) -> Lifetimes:
        """Return the lifetimes of a listing."""
        matching = (rule.lifetimes for rule in self.rules if rule.matches(path, pairs))
        return next(matching, self.default)

    @property
    def max_useful_s(self) -> float:
        """The longest that any span is of use, seconds."""
        every = [self.default, *(rule.lifetimes for rule in self.rules)]
        return max(each.ttl_s + each.max_stale_s for each in every)


# `Accept` changes the form of errors, never that of a list: Glance knows only JSON for one.
_FORWARDED_FIELD: Final = "accept"
_MAX_CACHED_CHARS: Final = 1024
_MAX_CACHED_TARGETS: Final = 4096


@immutable
class PageSizes:
    """The upstream's page sizes: the longest it gives, and what it gives when no `limit` is sent."""

    max_page: int = 1000
    default: int = 25
    default_cloudimages: int = 500

    def row_count(self, window: Window, path: str) -> int:
        """Return how many rows a page of *window* holds."""
        if window.limit is None:
            return min(self.max_page, self.default_cloudimages if path == CLOUDIMAGES_PATH else self.default)
        return min(self.max_page, window.limit)


@immutable
class _ResolvedTarget:
    """What a target names, to one partition and in one form of the API; see `ListRequest`."""

    key: CacheKey
    sort: SortOrder
    window: Window
    marker: str
    row_count: int
    upstream_path: str
    lifetimes: Lifetimes


@dataclass(frozen=True, slots=True, eq=False)
class ListRules:
    """How lists are asked for: the rules that hold for all requests.

    *use_cloudimages* says that native lists come from `/v2/cloudimages`, which outlives `/v2/images` at Huawei Cloud,
    *share_public* that those of public images are the same for everyone.

    What short targets name is remembered, under all that it follows from beside these rules: the partition, the form of
    the API, the target. So nobody's key can come up for somebody else.
    """

    partitioner: Partitioner
    sizes: PageSizes
    lifetime_rules: LifetimeRules
    use_cloudimages: bool = False
    share_public: bool = False
    _resolved: dict[tuple[Partition, str, str], _ResolvedTarget] = field(default_factory=dict, init=False, repr=False)

    def resolve_target(self, principal: Principal, variant: str, request: Request, query: ListQuery) -> _ResolvedTarget:
        """Return what the target of *request*, with that *query*, names."""
        source = CLOUDIMAGES_PATH if self.use_cloudimages else request.path
        partition = principal.user_partition if source == CLOUDIMAGES_PATH else principal.partition
        at = (partition, variant, request.target)
        found = self._resolved.get(at)
        if found is None:
            found = self._resolve(partition, variant, request.path, query, source)
            if len(request.target) <= _MAX_CACHED_CHARS:
                if len(self._resolved) >= _MAX_CACHED_TARGETS:
                    self._resolved.clear()
                self._resolved[at] = found
        return found

    def _resolve(self, partition: Partition, variant: str, path: str, query: ListQuery, source: str) -> _ResolvedTarget:
        window, sort = query.window, query.sort
        rows = self.sizes.row_count(window, path)
        by_page = not sort.has_total_order or rows == 0
        return _ResolvedTarget(
            key=CacheKey(partition, variant, path, query.canonical, window if by_page else None),
            sort=sort,
            window=window,
            marker=window.marker or LIST_START,
            row_count=rows,
            upstream_path=source,
            lifetimes=self.lifetime_rules.for_listing(path, query.pairs),
        )


@immutable
class ListRequest:
    """One list *client_request* of *principal*: *key* names the listing, *marker* and *row_count* the page.

    *variant* is that of the API. With *public_only* set, an image that is not public has no place in the answer.
    *context* says for whom the upstream is asked.
    """

    principal: Principal
    key: CacheKey
    sort: SortOrder
    window: Window
    marker: str
    row_count: int
    upstream_path: str
    lifetimes: Lifetimes
    directives: RequestDirectives
    client_request: Request
    variant: str
    public_only: bool = False
    context: CallContext = DEFAULT_CONTEXT

    @property
    def upstream_fields(self) -> Fields:
        """What goes upstream, to *upstream_path*; each is in the key or can't change a list."""
        names = (*self.principal.credential_names, _FORWARDED_FIELD)
        sent = [line for line in self.client_request.fields.lines if line[0].lower() in names]
        sent.append(("X-Request-Id", self.client_request.request_id))
        if self.variant:
            sent.append(("X-Api-Version", self.variant))
        return Fields(sent)

    @property
    def accept(self) -> str:
        """The form that errors are wanted in."""
        return ", ".join(self.client_request.fields.get_all(_FORWARDED_FIELD))

    @property
    def without_next(self) -> bool:
        """Whether the list comes without `next`."""
        return self.upstream_path == CLOUDIMAGES_PATH


def parse_list_request(
    request: Request,
    rules: ListRules,
    principal: Principal | NotShareable | None = None,
    context: CallContext = DEFAULT_CONTEXT,
) -> ListRequest | str:
    """Return what the list *request* asks for, or why it must go through as it came.

    It is *principal*'s; None leaves it to its token alone. *context* says for whom the upstream is asked.
    """
    wishes = parse_request_directives(request.fields)
    reason = "no-store" if wishes.no_store else bypass_reason(request)
    query = parse_list_query(request.query)
    if reason or isinstance(query, UnclearQuery):
        return reason or query.reason  # type: ignore[union-attr]  # a reason, or an unclear query
    principal = principal or _principal_by_token(request.fields, rules.partitioner)
    if isinstance(principal, NotShareable):
        return principal.value
    form = api_variant(request.fields)
    named = rules.resolve_target(principal, form, request, query)
    return ListRequest(
        principal=principal,
        key=named.key,
        sort=named.sort,
        window=named.window,
        marker=named.marker,
        row_count=named.row_count,
        upstream_path=named.upstream_path,
        lifetimes=named.lifetimes,
        directives=wishes,
        client_request=request,
        variant=form,
        context=context,
    )


def _principal_by_token(fields: Fields, partitioner: Partitioner) -> Principal | NotShareable:
    partition = partitioner.from_fields(fields)
    return Principal(partition, partition) if isinstance(partition, Partition) else partition


def to_public_list(request: ListRequest, rules: ListRules) -> ListRequest | None:
    """Return *request* for the list that everyone shares, None where it is not the same for everyone.

    It is where the list is restricted to public images by `visibility`, once. `__imagetype=gold` alone says less: to
    Glance it is a property like others, which anyone may give to a private image. `/v2/cloudimages` may differ from
    user to user. Which images a role may not see, and which of their properties, no request tells: that is why sharing
    is off by default.
    """
    if not (rules.share_public and request.principal.may_share_public) or request.upstream_path == CLOUDIMAGES_PATH:
        return None
    query = parse_list_query(request.key.query)
    assert not isinstance(query, UnclearQuery)
    if [value for name, value in query.pairs if name == "visibility"] != ["public"]:
        return None
    return replace(request, key=replace(request.key, partition=rules.partitioner.public_partition), public_only=True)
