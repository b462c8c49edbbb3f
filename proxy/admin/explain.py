"""What a request turns into, told offline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from proxy.config.model import Settings
from proxy.config.policies import make_lifetime_rules, make_list_rules, make_resource_routes
from proxy.core.list_api import LIST_APIS
from proxy.core.list_query import ListQuery, SortOrder, describe_normalisation, parse_list_query
from proxy.core.messages import Fields, Request
from proxy.core.partition import NotShareable, Partition, Partitioner, Principal, TokenScope
from proxy.core.routes import Forward, classify_path
from proxy.listing.request import ListRequest, parse_list_request, to_public_list
from proxy.resources.request import parse_resource_request

# Why a list request goes through as it came, in a sentence each; the tokens stand in `Cache-Status` details.
BYPASS_REASONS = {
    "no-store": "the caller sent Cache-Control: no-store",
    "body": "it has a body",
    "precondition": "it has a precondition other than If-None-Match",
    "semicolon": "a raw `;` stands in the query: Glance splits there, other servers don't",
    "escape": "the query has a malformed percent-escape or a raw non-ASCII byte",
    "no-value": "a parameter has no `=`",
    "no-name": "a parameter has no name",
    "not-utf-8": "a parameter is not UTF-8",
    "control-character": "a parameter holds a control character",
    "two-limits": "`limit` stands twice",
    "two-markers": "`marker` stands twice",
    "limit": "`limit` is empty or no decimal number",
    "marker": "`marker` is empty or longer than 255 characters",
    "no-token": "it has no X-Auth-Token, so nobody can be told to share the answer",
    "two-tokens": "it has two X-Auth-Token fields",
    "two-credentials": "it has an X-Auth-Token beside another credential",
    "signed": "it is signed, and the signature can't be verified here; if it covers Host, it holds for the upstream's",
}

_PARTITION_TEXTS = {
    "token": "shared only among requests with this token",
    "project": "shared by all tokens of its project and roles, once IAM has verified this one",
    "gateway": "shared by all callers, what the proxy's own identity sees",
    "public": "shared by all verified callers, for it holds public images only",
}

# Stands in for the secret of a running proxy: an explanation shows no digest.
_PLACEHOLDER_SECRET = b"explanations show no digests"


def explain_target(target: str, settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield what a GET of *target* turns into, by a caller of whom nothing else is known."""
    if settings.identity.mode == "gateway":
        yield from explain_request("GET", target, (), settings)
        return
    yield "assumed", "the caller sends one X-Auth-Token, and no other field that matters"
    yield from explain_request("GET", target, [("X-Auth-Token", "assumed")], settings)


def explain_request(
    method: str, target: str, fields: Sequence[tuple[str, str]], settings: Settings
) -> Iterator[tuple[str, str]]:
    """Yield what a request for *target*, a path with a query, turns into: (label, text), without any credential."""
    request = Request(method.upper(), target, Fields(fields), request_id="explained")
    kind = classify_path(request.path)
    yield "request", f"{request.method} {target}"
    yield "route", kind.value
    if request.method not in ("GET", "HEAD"):
        yield "cacheable", "no: only GET and HEAD are answered from the store"
        return
    if request.path not in LIST_APIS:
        yield from _explain_resource(request, settings)
        return
    query = parse_list_query(request.query, LIST_APIS[request.path])
    if isinstance(query, ListQuery):
        yield from _explain_listing(request, query)
    asks = make_list_rules(settings, _PLACEHOLDER_SECRET)
    list_request = parse_list_request(request, asks, _assumed_principal(request, asks.partitioner, settings))
    if isinstance(list_request, ListRequest) and (shared := to_public_list(list_request, asks)):
        list_request = shared
    if isinstance(list_request, ListRequest):
        yield from _explain_answer(list_request, settings)
    else:
        yield "cacheable", _explain_forward(list_request)


def _explain_forward(forward: Forward) -> str:
    return f"no: {BYPASS_REASONS[forward.reason]} (detail={forward.reason}); it goes through as it came"


def _explain_resource(request: Request, settings: Settings) -> Iterator[tuple[str, str]]:
    on = make_resource_routes(settings.cache).find(request.path)
    if on is None:
        yield "cacheable", "no: neither a list nor a resource that a route names"
        return
    yield "resource", f"route {on.path}"
    partitioner = Partitioner(_PLACEHOLDER_SECRET)
    principal = _assumed_principal(request, partitioner, settings)
    if principal is None:
        partition = partitioner.from_fields(request.fields)
        principal = Principal(partition, partition) if isinstance(partition, Partition) else partition
    resource_request = parse_resource_request(request, on, partitioner, principal)
    if isinstance(resource_request, Forward):
        yield "cacheable", _explain_forward(resource_request)
        return
    shared = (
        "shared by everyone, for the route says so"
        if on.is_public
        else _PARTITION_TEXTS[resource_request.key.partition.kind]
    )
    yield "partition", f"{resource_request.key.partition.kind}: {shared}"
    yield "lifetime", f"what the answer says, else {on.policy.ttl_s:g} s"
    yield "cacheable", "yes"


def _explain_listing(request: Request, query: ListQuery) -> Iterator[tuple[str, str]]:
    yield "listing", f"{request.path}{'?' if query.canonical else ''}{query.canonical}"
    limit = "the upstream's default" if query.window.limit is None else str(query.window.limit)
    yield (
        "window",
        f"limit {limit}, " + ("from the head" if query.window.marker is None else f"after {query.window.marker}"),
    )
    for note in describe_normalisation(request.query):
        yield "normalised", note
    yield "sorted by", f"{', '.join(query.sort.keys)}: {_explain_paging(query.sort)}"


def _explain_paging(sort: SortOrder) -> str:
    if not sort.has_total_order:
        return "its pages are no windows of one order, each is kept as it came"
    if sort.is_stable:
        return "any window is answered from stored spans, joined where it crosses them"
    return "a window is answered from one span; images may move under this order, so spans are not joined"


def _explain_answer(request: ListRequest, settings: Settings) -> Iterator[tuple[str, str]]:
    yield "variant", f"X-Api-Version {request.key.variant}" if request.key.variant else "no X-Api-Version"
    yield "partition", f"{request.key.partition.kind}: {_PARTITION_TEXTS[request.key.partition.kind]}"
    yield "page", f"{request.row_count} rows{'' if request.api.gives_next else ', no links'}"
    lifetime = (
        f"{request.lifetimes.ttl_s:g} s, {request.lifetimes.transient_ttl_s:g} s where an image is about to change; "
        f"by {_explain_rule(request, settings)}"
    )
    yield "lifetime", lifetime
    yield "cacheable", "yes"


def _assumed_principal(
    request: Request, partitioner: Partitioner, settings: Settings
) -> Principal | NotShareable | None:
    """Return whose *request* is as far as that can be told offline: what IAM would say of its token is not known."""
    mode = settings.identity.mode
    if mode == "gateway":
        partition = partitioner.for_own_identity()
        return Principal(partition, partition, is_verified=True, may_share_public=True, credential_names=())
    partition_of_token = partitioner.from_fields(request.fields)
    if mode == "token" or isinstance(partition_of_token, NotShareable):
        return None
    nobody = partitioner.for_scope(TokenScope("project", "", "", (), ""), per_user=False)
    return Principal(nobody, nobody, is_verified=True, may_share_public=True)


def _explain_rule(request: ListRequest, settings: Settings) -> str:
    query = parse_list_query(request.key.query)
    assert isinstance(query, ListQuery)
    for number, rule in enumerate(make_lifetime_rules(settings.cache).rules, 1):
        if rule.matches(request.key.path, query.pairs):
            return f"rule {number} of cache.rules"
    return "cache.ttl_s"
