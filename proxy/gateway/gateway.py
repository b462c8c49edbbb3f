"""Decides how a request is answered: a list from spans, a resource from the cache, or forwarded.

The version documents at `/` and `/versions` are forwarded, but their links name the upstream's host and are rewritten.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from proxy.auth.authenticators import Authenticator, TokenAuthenticator
from proxy.core.cache_key import partition_tag
from proxy.core.cache_status import CacheStatus, FwdReason
from proxy.core.list_api import LIST_APIS
from proxy.core.messages import Request, Response, StreamedResponse
from proxy.core.partition import NotShareable, Principal
from proxy.core.purge import PurgeOrder, PurgeResult
from proxy.core.replay import ReplayTerms
from proxy.core.routes import Forward, Route, classify_path
from proxy.core.values import immutable
from proxy.errors import StoreUnavailableError
from proxy.gateway.admission import Admission
from proxy.gateway.invalidation import InvalidatingForwarder
from proxy.gateway.reauthorization import find_revocation_reason, retry_on_identity_change
from proxy.gateway.relevant_headers import with_relevant_fields
from proxy.listing.page_cache import PageRenderer, PageResponder
from proxy.listing.rendering import LinkStyle
from proxy.listing.request import ListRequest, ListRules, parse_list_request, to_public_list
from proxy.listing.service import ListingService
from proxy.ratelimit.priority import CallPriorities
from proxy.resources.request import parse_resource_request
from proxy.resources.routes import NO_RESOURCES, ResourceRoutes
from proxy.resources.service import ResourceService
from proxy.storage.base import SpanStore
from proxy.storage.circuit_breaker import begin_request
from proxy.upstream.forward import Forwarder, answer_options, answers_locally


def rewrite_links(body: bytes, base_url: str) -> bytes:
    """Return the version document *body* with each link on *base_url*, scheme and authority of the proxy as callers see
    it.

    A body that is no JSON, or has no link that leads elsewhere, comes back as it is.
    """
    try:
        document = orjson.loads(body)
        rebased = _rebase_links(document, base_url)
    except (orjson.JSONDecodeError, RecursionError):
        return body
    return body if rebased == document else orjson.dumps(rebased)


def _rebase_links(value: Any, base_url: str) -> Any:
    if isinstance(value, list):
        return [_rebase_links(item, base_url) for item in value]
    if isinstance(value, dict):
        return {
            name: _rebase_link(item, base_url)
            if name == "href" and isinstance(item, str)
            else _rebase_links(item, base_url)
            for name, item in value.items()
        }
    return value


def _rebase_link(link: str, base_url: str) -> str:
    """Return *link* on *base_url*: its path and query, or the root where it has no path of an origin."""
    try:
        parts = urlsplit(link)
    except ValueError:
        return base_url + "/"
    if "\\" in link or (parts.path and not parts.path.startswith("/") and parts.scheme):
        return base_url + "/"
    if not parts.scheme and not parts.netloc:
        return link
    query = f"?{parts.query}" if parts.query else ""
    return f"{base_url}{parts.path or '/'}{query}"


_BODY_FIELDS: Final = ("content-length", "etag", "content-md5", "digest", "content-digest")


@immutable
class ClientConnection:
    """Where a request came from: the address of the *peer*, and the *origin* it spoke to, "" if that is unclear."""

    peer: str | None
    origin: str


@immutable
class GatewayResponse:
    """What goes back: a finished response, or one whose body still comes."""

    route: Route
    cache_status: CacheStatus
    response: Response | None = None
    streamed: StreamedResponse | None = None
    replay_terms: ReplayTerms | None = None


class Gateway:
    """One upstream, its lists answered from spans."""

    def __init__(
        self,
        listings: ListingService,
        forwarder: Forwarder,
        renderer: PageRenderer,
        *,
        list_rules: ListRules,
        link_style: LinkStyle,
        store: SpanStore,
        clock: Callable[[], float],
        authenticator: Authenticator | None = None,
        priorities: CallPriorities | None = None,
        admission: Admission | None = None,
        resources: ResourceService | None = None,
        resource_routes: ResourceRoutes = NO_RESOURCES,
    ) -> None:
        self._listings = listings
        self._resources = resources
        self._resource_routes = resource_routes
        self._forwarder = forwarder
        self._renderer = renderer
        self._page_responder = PageResponder(renderer, link_style)
        self._list_rules = list_rules
        self._link_style = link_style
        self._store = store
        self._clock = clock
        self._authenticator = authenticator or TokenAuthenticator(list_rules.partitioner)
        self._priorities = priorities or CallPriorities(list_rules.partitioner)
        self._admission = admission or Admission(clock=clock)
        self._invalidating_forwarder = InvalidatingForwarder(
            forwarder,
            store,
            partitioner=list_rules.partitioner,
            acceptance=listings.acceptance,
            authenticator=self._authenticator,
            routes=resource_routes,
            clock=clock,
        )

    @asynccontextmanager
    async def answer(self, request: Request, connection: ClientConnection) -> AsyncIterator[GatewayResponse]:
        """Give the answer to *request*; a streamed one lasts as long as the context.

        Raises `ProxyError` where the proxy has to answer itself.
        """
        begin_request()
        relevant_request = with_relevant_fields(request) if request.method in ("GET", "HEAD") else request
        self._authenticator.authorize(relevant_request)
        if answers_locally(request):
            yield GatewayResponse(
                Route.OTHER, CacheStatus(FwdReason.BYPASS, detail="options"), response=answer_options()
            )
            return
        caller = self._priorities.caller_id(relevant_request.fields, peer=connection.peer)
        with self._admission.admit(caller):
            route = classify_path(request.path)
            answer = await retry_on_identity_change(
                lambda: self._answer_from_cache(request, relevant_request, route, connection, caller)
            )
            if isinstance(answer, GatewayResponse):
                yield answer
                return
            async with AsyncExitStack() as stack:
                streamed = await retry_on_identity_change(lambda: self._forward(request, caller, stack))
                safe = request.method in ("GET", "HEAD")
                why, detail = (FwdReason.BYPASS, answer.reason) if safe else (FwdReason.METHOD, None)
                fwd = CacheStatus(why, streamed.status, detail=detail)
                yield GatewayResponse(route, fwd, streamed=streamed)

    async def _answer_from_cache(
        self, request: Request, relevant_request: Request, route: Route, connection: ClientConnection, caller: str
    ) -> GatewayResponse | Forward:
        """Return the answer to *request*, which *caller* sent, or why it is forwarded.

        What is answered from the store is decided by *relevant_request* alone: the request with none but its decisive
        fields.
        """
        if request.method not in ("GET", "HEAD"):
            return Forward("method")
        if request.path in LIST_APIS:
            list_request = await self._parse_list_request(relevant_request, caller)
            return (
                await self._answer_list(relevant_request, connection, route, list_request)
                if isinstance(list_request, ListRequest)
                else list_request
            )
        if route is Route.VERSIONS and request.method == "GET":
            return await self._answer_versions(request, connection, caller)
        return await self._answer_resource(request, relevant_request, route, caller)

    async def _answer_resource(
        self, request: Request, relevant_request: Request, route: Route, caller: str
    ) -> GatewayResponse | Forward:
        """Return the answer to a request for a resource, or why it is forwarded.

        It is decided by *relevant_request*, which has only the decisive fields, unless the route lets the upstream's
        `Vary` say which fields count.
        """
        resource_route = self._resource_routes.find(request.path)
        if resource_route is None or self._resources is None:
            return Forward("other-path")
        request = request if resource_route.by_vary else relevant_request
        principal = await self._authenticate(request)
        # On these routes more of the request goes up than its credentials, so the authenticator prepares it. A request
        # with a body will be forwarded, and its authenticator may have to read that body, which can be done only once.
        sends_whole_request = (resource_route.is_public or resource_route.by_vary) and request.body is None
        sent = await self._authenticator.prepare_forward(request) if sends_whole_request else request
        resource_request = parse_resource_request(sent, resource_route, self._list_rules.partitioner, principal)
        if isinstance(resource_request, Forward):
            return resource_request
        resource_request = replace(
            resource_request, context=self._priorities.call_context(request, principal, caller=caller)
        )
        got = await self._resources.answer(resource_request)
        if isinstance(got, Forward):
            return got
        if reason := await find_revocation_reason(
            self._authenticator, request, resource_request, got.response, now=self._clock()
        ):
            return Forward(reason)
        return GatewayResponse(route, got.cache_status, response=got.response, replay_terms=got.replay_terms)

    async def close(self) -> None:
        """Wait until all that is under way has been learnt; each of it has a time limit."""
        await self._invalidating_forwarder.close()
        await self._renderer.close()

    async def _forward(self, request: Request, caller: str, stack: AsyncExitStack) -> StreamedResponse:
        """Return the upstream's answer to *request*, which lasts as long as *stack*."""
        return await stack.enter_async_context(
            self._invalidating_forwarder.stream(await self._prepare_forward(request, caller), client_request=request)
        )

    async def _prepare_forward(self, request: Request, caller: str) -> Request:
        """Return *request* as it goes through, with its claimant."""
        context = self._priorities.call_context(request, await self._authenticator.authenticate(request), caller=caller)
        return replace(await self._authenticator.prepare_forward(request), context=context)

    async def _parse_list_request(self, request: Request, caller: str) -> ListRequest | Forward:
        """Return what the list *request* asks for, or why it is forwarded.

        A public list is shared only from a marker that the shared list itself has shown. Where any other image stands
        in the order is nobody's to learn but theirs who may see that image.
        """
        principal = await self._authenticate(request)
        list_request = parse_list_request(
            request, self._list_rules, principal, self._priorities.call_context(request, principal, caller=caller)
        )
        if isinstance(list_request, ListRequest) and (shared := to_public_list(list_request, self._list_rules)):
            return shared if await self._listings.has_shown(shared) else list_request
        return list_request

    async def _authenticate(self, request: Request) -> Principal | NotShareable:
        """Return whose *request* is, and note a verified identity as shown before anything is looked up for it."""
        principal = await self._authenticator.authenticate(request)
        if isinstance(principal, Principal) and principal.is_verified:
            self._listings.acceptance.mark_served(principal)
        return principal

    async def purge(self, order: PurgeOrder) -> PurgeResult:
        """Drop what *order* names, in every replica, and return what that was."""
        now = self._clock()
        partitioner = self._list_rules.partitioner
        order = order if order.project is None else self._authenticator.project_purge_order(order.project)
        tags = order.tags or (partition_tag(partitioner.for_token_hash(order.token_hash or b"")),)
        try:
            dropped = sum([await self._store.count_listings(scope, now=now) for scope in tags])
        except StoreUnavailableError:
            dropped = 0  # what can't be reached can't be counted, but is dropped before it is believed again
        if order.tags:
            await self._store.invalidate(order.tags, now=now)
        if order.token_hash is not None:
            await self._listings.acceptance.record_rejection(
                self._authenticator.principal_for_partition(partitioner.for_token_hash(order.token_hash)), force=True
            )
        return PurgeResult(dropped, order.reason)

    async def _answer_list(
        self, request: Request, connection: ClientConnection, route: Route, list_request: ListRequest
    ) -> GatewayResponse | Forward:
        """Return the answer to *list_request*, or why it is forwarded: its token may have ended during the fetch."""
        got = await self._listings.answer(list_request)
        if reason := await find_revocation_reason(
            self._authenticator, request, list_request, got.response, now=self._clock()
        ):
            return Forward(reason)
        if got.response is not None:
            return GatewayResponse(route, got.cache_status, response=_without_hop_by_hop(got.response))
        if self._resources is not None:
            self._resources.note_list(list_request)
        page = await self._page_responder.respond(request, list_request, got, peer=connection.peer)
        return GatewayResponse(route, got.cache_status, response=page, replay_terms=got.replay_terms)

    async def _answer_versions(self, request: Request, connection: ClientConnection, caller: str) -> GatewayResponse:
        """Return the version document with links to the proxy; it is asked for anew each time."""
        answer = await self._forwarder.fetch(await self._prepare_forward(request, caller))
        base = self._link_style.base_for(request.fields, connection.peer) or connection.origin
        body = rewrite_links(answer.body, base) if base else answer.body
        fields = answer.fields if body is answer.body else answer.fields.without(_BODY_FIELDS)
        status = CacheStatus(FwdReason.BYPASS, answer.status, detail="versions")
        return GatewayResponse(Route.VERSIONS, status, response=Response(answer.status, fields, body, answer.reason))


def _without_hop_by_hop(response: Response) -> Response:
    """Return the upstream's *response* as it came, but for the fields that end at a proxy."""
    return Response(response.status, response.fields.end_to_end(), response.body, response.reason)
