"""Parses a list request into the values that decide its answer, and applies the lifetime rules by path and query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from proxy.core.cache_key import CacheKey
from proxy.core.call_context import DEFAULT_CONTEXT, CallContext
from proxy.core.freshness import Lifetimes
from proxy.core.list_api import CLOUDIMAGES, IMAGES, LIST_APIS, ListApi
from proxy.core.list_query import ListQuery, Pairs, SortOrder, UnclearQuery, Window, parse_list_query
from proxy.core.messages import Fields, Request
from proxy.core.partition import NotShareable, Partition, Partitioner, Principal, api_variant
from proxy.core.routes import Forward, bypass_reason
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
    """The upstream's longest page, and its page size without `limit` by path where it is not the API's default."""

    max_page: int = 1000
    defaults: Mapping[str, int] = field(default_factory=dict, hash=False)

    def row_count(self, window: Window, api: ListApi) -> int:
        limit = self.defaults.get(api.path, api.default_limit) if window.limit is None else window.limit
        return min(self.max_page, limit)


@immutable
class _ResolvedTarget:
    """What a target names for one partition and API variant; see `ListRequest`."""

    api: ListApi
    upstream_api: ListApi
    key: CacheKey
    sort: SortOrder
    window: Window
    marker: str
    row_count: int
    lifetimes: Lifetimes


@dataclass(frozen=True, slots=True, eq=False)
class ListRules:
    """The rules for all list requests.

    With *use_cloudimages* lists of images are fetched from `/v2/cloudimages`, which outlives the native list at Huawei
    Cloud. With *share_public* lists of public images are the same for everybody.

    What short targets name is kept under everything else it follows from: partition, API variant and target. So
    nobody's key can come up for somebody else.
    """

    partitioner: Partitioner
    sizes: PageSizes
    lifetime_rules: LifetimeRules
    use_cloudimages: bool = False
    share_public: bool = False
    _resolved: dict[tuple[Partition, str, str], _ResolvedTarget] = field(default_factory=dict, init=False, repr=False)

    def resolve_target(self, principal: Principal, variant: str, request: Request, query: ListQuery) -> _ResolvedTarget:
        upstream_api = CLOUDIMAGES if self.use_cloudimages and query.api is IMAGES else query.api
        partition = principal.user_partition if upstream_api.varies_by_user else principal.partition
        at = (partition, variant, request.target)
        found = self._resolved.get(at)
        if found is None:
            found = self._resolve(partition, variant, query, upstream_api)
            if len(request.target) <= _MAX_CACHED_CHARS:
                if len(self._resolved) >= _MAX_CACHED_TARGETS:
                    self._resolved.clear()
                self._resolved[at] = found
        return found

    def _resolve(self, partition: Partition, variant: str, query: ListQuery, upstream_api: ListApi) -> _ResolvedTarget:
        window, sort, path = query.window, query.sort, query.api.path
        rows = self.sizes.row_count(window, query.api)
        by_page = not sort.has_total_order or rows == 0
        return _ResolvedTarget(
            api=query.api,
            upstream_api=upstream_api,
            key=CacheKey(partition, variant, path, query.canonical, window if by_page else None),
            sort=sort,
            window=window,
            marker=window.marker or LIST_START,
            row_count=rows,
            lifetimes=self.lifetime_rules.for_listing(path, query.pairs),
        )


@immutable
class ListRequest:
    """One list request of *principal*: *key* names the listing, *marker* and *row_count* the page.

    The client asked *api*; what is missing is fetched from *upstream_api* in the API's *variant*. With *public_only* no
    image that is not public may be in the answer. *context* says for whom the upstream is called.
    """

    principal: Principal
    api: ListApi
    upstream_api: ListApi
    key: CacheKey
    sort: SortOrder
    window: Window
    marker: str
    row_count: int
    lifetimes: Lifetimes
    directives: RequestDirectives
    client_request: Request
    variant: str
    public_only: bool = False
    context: CallContext = DEFAULT_CONTEXT

    @property
    def upstream_fields(self) -> Fields:
        """The fields sent upstream; each is in the key or can't change a list (law 1)."""
        names = (*self.principal.credential_names, _FORWARDED_FIELD)
        sent = [line for line in self.client_request.fields.lines if line[0].lower() in names]
        sent.append(("X-Request-Id", self.client_request.request_id))
        if self.variant:
            sent.append(("X-Api-Version", self.variant))
        return Fields(sent)

    @property
    def accept(self) -> str:
        """`Accept`: it decides the form of errors."""
        return ", ".join(self.client_request.fields.get_all(_FORWARDED_FIELD))


def parse_list_request(
    request: Request,
    rules: ListRules,
    principal: Principal | NotShareable | None = None,
    context: CallContext = DEFAULT_CONTEXT,
) -> ListRequest | Forward:
    """Return what the list *request* asks for, or why it is forwarded.

    It is *principal*'s; None leaves it to its token alone. *context* says for whom the upstream is asked.
    """
    wishes = parse_request_directives(request.fields)
    if reason := "no-store" if wishes.no_store else bypass_reason(request):
        return Forward(reason)
    query = parse_list_query(request.query, LIST_APIS[request.path])
    if isinstance(query, UnclearQuery):
        return Forward(query.reason)
    principal = principal or _principal_by_token(request.fields, rules.partitioner)
    if isinstance(principal, NotShareable):
        return Forward(principal.value)
    form = api_variant(request.fields)
    named = rules.resolve_target(principal, form, request, query)
    return ListRequest(
        principal=principal,
        api=named.api,
        upstream_api=named.upstream_api,
        key=named.key,
        sort=named.sort,
        window=named.window,
        marker=named.marker,
        row_count=named.row_count,
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
    """Return *request* for the list that everybody shares, None if it is not the same for everybody.

    It is if `visibility=public` restricts it, once. `__imagetype=gold` alone says less: to Glance it is a property that
    anyone may give to a private image. Which images a role may not see, and which properties, no request tells: that is
    why sharing is off by default.
    """
    api = request.upstream_api
    if not (rules.share_public and request.principal.may_share_public and api.has_public_items) or api.varies_by_user:
        return None
    query = parse_list_query(request.key.query, request.api)
    assert not isinstance(query, UnclearQuery)
    if [value for name, value in query.pairs if name == "visibility"] != ["public"]:
        return None
    return replace(request, key=replace(request.key, partition=rules.partitioner.public_partition), public_only=True)
