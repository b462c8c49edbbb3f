"""What a request turns into, told offline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from proxy.config.model import Settings
from proxy.config.policies import asking, resource_routes, rules
from proxy.core.list_api import EXTENSION_PATH
from proxy.core.list_query import ListQuery, Sort, normalised, parsed
from proxy.core.messages import Fields, Request
from proxy.core.partition import Partition, Partitioner, Scope, Unshared, Who
from proxy.core.routes import Route, route
from proxy.listing.request import ListAsk, asked, shared_by_all
from proxy.resources.request import resource_asked

# Why a list request goes through as it came, in a sentence each; the tokens stand in `Cache-Status` details.
REASONS = {
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

_SHARED = {
    "token": "shared only among requests with this token",
    "project": "shared by all tokens of its project and roles, once IAM has verified this one",
    "gateway": "shared by all callers, what the proxy's own identity sees",
    "public": "shared by all verified callers, for it holds public images only",
}

# Stands in for the secret of a running proxy: an explanation shows no digest.
_ANY_SECRET = b"explanations show no digests"


def assumed_explanation(target: str, settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield what a GET of *target* turns into, by a caller of whom nothing else is known."""
    if settings.identity.mode == "gateway":
        yield from explanation("GET", target, (), settings)
        return
    yield "assumed", "the caller sends one X-Auth-Token, and no other field that matters"
    yield from explanation("GET", target, [("X-Auth-Token", "assumed")], settings)


def explanation(
    method: str, target: str, fields: Sequence[tuple[str, str]], settings: Settings
) -> Iterator[tuple[str, str]]:
    """Yield what a request for *target*, a path with a query, turns into: (label, text), without any credential."""
    request = Request(method.upper(), target, Fields(fields), request_id="explained")
    kind = route(request.path)
    yield "request", f"{request.method} {target}"
    yield "route", kind.value
    if request.method not in ("GET", "HEAD"):
        yield "cacheable", "no: only GET and HEAD are answered from the store"
        return
    if kind not in (Route.LIST, Route.EXTENSION_LIST):
        yield from _resource(request, settings)
        return
    query = parsed(request.query)
    if isinstance(query, ListQuery):
        yield from _listing(request, query)
    asks = asking(settings, _ANY_SECRET)
    ask = asked(request, asks, _who(request, asks.partitioner, settings))
    if isinstance(ask, ListAsk) and (shared := shared_by_all(ask, asks)):
        ask = shared
    if isinstance(ask, ListAsk):
        yield from _answered(ask, settings)
    else:
        yield "cacheable", f"no: {REASONS[ask]} (detail={ask}); it goes through as it came"


def _resource(request: Request, settings: Settings) -> Iterator[tuple[str, str]]:
    on = resource_routes(settings.cache).route(request.path)
    if on is None:
        yield "cacheable", "no: neither a list nor a resource that a route names"
        return
    yield "resource", f"route {on.path}"
    partitioner = Partitioner(_ANY_SECRET)
    who = _who(request, partitioner, settings)
    if who is None:
        partition = partitioner.of(request.fields)
        who = Who(partition, partition) if isinstance(partition, Partition) else partition
    ask = resource_asked(request, on, partitioner, who)
    if isinstance(ask, str):
        yield "cacheable", f"no: {REASONS[ask]} (detail={ask}); it goes through as it came"
        return
    shared = "shared by everyone, for the route says so" if on.public else _SHARED[ask.key.partition.kind]
    yield "partition", f"{ask.key.partition.kind}: {shared}"
    yield "lifetime", f"what the answer says, else {on.policy.ttl_s:g} s"
    yield "cacheable", "yes"


def _listing(request: Request, query: ListQuery) -> Iterator[tuple[str, str]]:
    yield "listing", f"{request.path}{'?' if query.canonical else ''}{query.canonical}"
    limit = "the upstream's default" if query.window.limit is None else str(query.window.limit)
    yield (
        "window",
        f"limit {limit}, " + ("from the head" if query.window.marker is None else f"after {query.window.marker}"),
    )
    for note in normalised(request.query):
        yield "normalised", note
    yield "sorted by", f"{', '.join(query.sort.keys)}: {_paging(query.sort)}"


def _paging(sort: Sort) -> str:
    if not sort.windowed:
        return "its pages are no windows of one order, each is kept as it came"
    if sort.immovable:
        return "any window is answered from stored spans, joined where it crosses them"
    return "a window is answered from one span; images may move under this order, so spans are not joined"


def _answered(ask: ListAsk, settings: Settings) -> Iterator[tuple[str, str]]:
    yield "variant", f"X-Api-Version {ask.key.variant}" if ask.key.variant else "no X-Api-Version"
    yield "partition", f"{ask.key.partition.kind}: {_SHARED[ask.key.partition.kind]}"
    yield "page", f"{ask.rows} rows{'' if ask.key.path != EXTENSION_PATH else ', no links'}"
    lifetime = (
        f"{ask.lifetimes.ttl_s:g} s, {ask.lifetimes.transient_ttl_s:g} s where an image is about to change; "
        f"by {_rule(ask, settings)}"
    )
    yield "lifetime", lifetime
    yield "cacheable", "yes"


def _who(request: Request, partitioner: Partitioner, settings: Settings) -> Who | Unshared | None:
    """Return whose *request* is as far as that can be told offline: what IAM would say of its token is not known."""
    mode = settings.identity.mode
    if mode == "gateway":
        partition = partitioner.own()
        return Who(partition, partition, verified=True, public=True, credentials=())
    partition_of_token = partitioner.of(request.fields)
    if mode == "token" or isinstance(partition_of_token, Unshared):
        return None
    nobody = partitioner.scoped(Scope("project", "", "", (), ""), user=False)
    return Who(nobody, nobody, verified=True, public=True)


def _rule(ask: ListAsk, settings: Settings) -> str:
    query = parsed(ask.key.query)
    assert isinstance(query, ListQuery)
    for number, rule in enumerate(rules(settings.cache).rules, 1):
        if rule.matches(ask.key.path, query.pairs):
            return f"rule {number} of cache.rules"
    return "cache.ttl_s"
