"""Decides which way a request takes: a list from spans, or through.

The version documents at `/` and `/versions`: the one answer of the API whose links name the upstream's host.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from proxy.auth.authenticators import Door, TokenDoor
from proxy.core.cache_key import partition_scope
from proxy.core.cache_status import CacheStatus, Fwd
from proxy.core.messages import Exchange, Request, Response
from proxy.core.partition import Unshared, Who
from proxy.core.purge import Purge, Purged
from proxy.core.routes import Route, route
from proxy.core.values import immutable
from proxy.errors import StoreUnavailableError
from proxy.gateway.admission import Admission
from proxy.gateway.invalidation import LearningForwarder
from proxy.gateway.reauthorization import as_one, believed_no_longer
from proxy.gateway.relevant_headers import decisive
from proxy.listing.lookup import Repeatable
from proxy.listing.page_cache import PageAnswers, PageRenderer
from proxy.listing.rendering import LinkStyle
from proxy.listing.request import Asking, ListAsk, asked, shared_by_all
from proxy.listing.service import ListingGateway
from proxy.ratelimit.priority import Claimants
from proxy.resources.request import resource_asked
from proxy.resources.routes import NO_RESOURCES, ResourceRoutes
from proxy.resources.service import ResourceGateway
from proxy.storage.base import SpanStore
from proxy.storage.circuit_breaker import begin_request
from proxy.upstream.forward import Forwarder, ends_here, options


def homeward(body: bytes, base: str) -> bytes:
    """Return the version document *body* with each link on *base*, scheme and authority of the proxy as callers see it.

    A body that is no JSON, or has no link that leads elsewhere, comes back as it is.
    """
    try:
        document = orjson.loads(body)
        rebased = _rebased(document, base)
    except (orjson.JSONDecodeError, RecursionError):
        return body
    return body if rebased == document else orjson.dumps(rebased)


def _rebased(value: Any, base: str) -> Any:
    if isinstance(value, list):
        return [_rebased(item, base) for item in value]
    if isinstance(value, dict):
        return {
            name: _on_base(item, base) if name == "href" and isinstance(item, str) else _rebased(item, base)
            for name, item in value.items()
        }
    return value


def _on_base(link: str, base: str) -> str:
    """Return *link* on *base*: its path and query, or the root where it has no path of an origin."""
    try:
        parts = urlsplit(link)
    except ValueError:
        return base + "/"
    if "\\" in link or (parts.path and not parts.path.startswith("/") and parts.scheme):
        return base + "/"
    if not parts.scheme and not parts.netloc:
        return link
    query = f"?{parts.query}" if parts.query else ""
    return f"{base}{parts.path or '/'}{query}"


_OF_THE_BODY: Final = ("content-length", "etag", "content-md5", "digest", "content-digest")


@immutable
class Arrival:
    """Where a request came from: the address of the *peer*, and the *origin* it spoke to, "" if that is unclear."""

    peer: str | None
    origin: str


@immutable
class Answer:
    """What goes back: a finished response, or one whose body still comes."""

    route: Route
    cache_status: CacheStatus
    response: Response | None = None
    exchange: Exchange | None = None
    repeatable: Repeatable | None = None


class Gateway:
    """One upstream, its lists answered from spans."""

    def __init__(
        self,
        listings: ListingGateway,
        forwarder: Forwarder,
        renderer: PageRenderer,
        *,
        asking: Asking,
        links: LinkStyle,
        store: SpanStore,
        clock: Callable[[], float],
        door: Door | None = None,
        claimants: Claimants | None = None,
        admission: Admission | None = None,
        resources: ResourceGateway | None = None,
        routes: ResourceRoutes = NO_RESOURCES,
    ) -> None:
        self._listings = listings
        self._resources = resources
        self._routes = routes
        self._forwarder = forwarder
        self._renderer = renderer
        self._pages = PageAnswers(renderer, links)
        self._asking = asking
        self._links = links
        self._store = store
        self._clock = clock
        self._door = door or TokenDoor(asking.partitioner)
        self._claimants = claimants or Claimants(asking.partitioner)
        self._admission = admission or Admission(clock=clock)
        self._through = LearningForwarder(
            forwarder,
            store,
            partitions=asking.partitioner,
            credentials=listings.credentials,
            door=self._door,
            routes=routes,
            clock=clock,
        )

    @asynccontextmanager
    async def answer(self, request: Request, arrival: Arrival) -> AsyncIterator[Answer]:
        """Give the answer to *request*; a streamed one lasts as long as the context.

        Raises `ProxyError` where the proxy has to answer itself.
        """
        begin_request()
        asked = decisive(request) if request.method in ("GET", "HEAD") else request
        self._door.admit(asked)
        if ends_here(request):
            yield Answer(Route.OTHER, CacheStatus(Fwd.BYPASS, detail="options"), response=options())
            return
        caller = self._claimants.caller(asked.fields, peer=arrival.peer)
        with self._admission.admitted(caller):
            kind = route(request.path)
            answer = await as_one(lambda: self._finished(request, asked, kind, arrival, caller))
            if isinstance(answer, Answer):
                yield answer
                return
            async with AsyncExitStack() as stack:
                exchange = await as_one(lambda: self._passed(request, caller, stack))
                safe = request.method in ("GET", "HEAD")
                fwd = CacheStatus(Fwd.BYPASS if safe else Fwd.METHOD, exchange.status, detail=answer if safe else None)
                yield Answer(kind, fwd, exchange=exchange)

    async def _finished(
        self, request: Request, asked: Request, kind: Route, arrival: Arrival, caller: str
    ) -> Answer | str:
        """Return the answer to *request*, which *caller* sent, or why the request goes through.

        What is answered from the store is decided by *asked* alone: the request with none but its decisive fields.
        """
        if request.method not in ("GET", "HEAD"):
            return "method"
        if kind in (Route.LIST, Route.EXTENSION_LIST):
            ask = await self._asked(asked, caller)
            return await self._list(asked, arrival, kind, ask) if isinstance(ask, ListAsk) else ask
        if kind is Route.VERSIONS and request.method == "GET":
            return await self._versions(request, arrival, caller)
        return await self._resource(request, asked, kind, caller)

    async def _resource(self, request: Request, asked: Request, kind: Route, caller: str) -> Answer | str:
        """Return the answer to a request for a resource, or why it must go through as it came.

        It is decided by *asked*, which has only the decisive fields, unless the route lets the upstream's `Vary` say
        which fields count.
        """
        on = self._routes.route(request.path)
        if on is None or self._resources is None:
            return "other-path"
        request = request if on.vary else asked
        who = await self._who(request)
        # On these routes more of the request goes up than its credentials, so the door makes it ready. A request with a
        # body will go through, and its door may have to read that body, which can be done only once.
        all_of_it = (on.public or on.vary) and request.body is None
        sent = await self._door.onward(request) if all_of_it else request
        ask = resource_asked(sent, on, self._asking.partitioner, who)
        if isinstance(ask, str):
            return ask
        ask = replace(ask, claimant=self._claimants.claimant(request, who, caller=caller))
        got = await self._resources.answer(ask)
        if isinstance(got, str):
            return got
        if reason := await believed_no_longer(self._door, request, ask, got.response, now=self._clock()):
            return reason
        return Answer(kind, got.cache_status, response=got.response, repeatable=got.repeatable)

    async def close(self) -> None:
        """Wait until all that is under way has been learnt; each of it has a time limit."""
        await self._through.close()
        await self._renderer.close()

    async def _passed(self, request: Request, caller: str, stack: AsyncExitStack) -> Exchange:
        """Return the upstream's answer to *request*, which lasts as long as *stack*."""
        return await stack.enter_async_context(
            self._through.exchange(await self._onward(request, caller), asked=request)
        )

    async def _onward(self, request: Request, caller: str) -> Request:
        """Return *request* as it goes through, with its claimant."""
        claimant = self._claimants.claimant(request, await self._door.who(request), caller=caller)
        return replace(await self._door.onward(request), claimant=claimant)

    async def _asked(self, request: Request, caller: str) -> ListAsk | str:
        """Return what the list *request* asks for, or why it must go through as it came.

        A public list is shared only from a marker that the shared list itself has shown. Where any other image stands
        in the order is nobody's to learn but theirs who may see that image.
        """
        who = await self._who(request)
        ask = asked(request, self._asking, who, self._claimants.claimant(request, who, caller=caller))
        if isinstance(ask, ListAsk) and (shared := shared_by_all(ask, self._asking)):
            return shared if await self._listings.shows(shared) else ask
        return ask

    async def _who(self, request: Request) -> Who | Unshared:
        """Return whose *request* is, and note a verified identity as shown before anything is looked up for it."""
        who = await self._door.who(request)
        if isinstance(who, Who) and who.verified:
            self._listings.credentials.shown(who)
        return who

    async def purge(self, order: Purge) -> Purged:
        """Drop what *order* names, in every replica, and return what that was."""
        now = self._clock()
        partitions = self._asking.partitioner
        order = order if order.project is None else self._door.seen_by(order.project)
        scopes = order.scopes or (partition_scope(partitions.hashed(order.token or b"")),)
        try:
            dropped = sum([await self._store.count(scope, now=now) for scope in scopes])
        except StoreUnavailableError:
            dropped = 0  # what can't be reached can't be counted, but is dropped before it is believed again
        if order.scopes:
            await self._store.invalidate(order.scopes, now=now)
        if order.token is not None:
            await self._listings.credentials.rejected(self._door.holder(partitions.hashed(order.token)), surely=True)
        return Purged(dropped, order.because)

    async def _list(self, request: Request, arrival: Arrival, kind: Route, ask: ListAsk) -> Answer | str:
        """Return the answer to *ask*, or why it goes through: its token may have ended during the fetch."""
        got = await self._listings.answer(ask)
        if reason := await believed_no_longer(self._door, request, ask, got.answer, now=self._clock()):
            return reason
        if got.answer is not None:
            return Answer(kind, got.cache_status, response=_unchanged(got.answer))
        if self._resources is not None:
            self._resources.listed(ask)
        page, repeatable = await self._pages.answer(request, ask, got, peer=arrival.peer)
        return Answer(kind, got.cache_status, response=page, repeatable=repeatable)

    async def _versions(self, request: Request, arrival: Arrival, caller: str) -> Answer:
        """Return the version document with links to the proxy; it is asked for anew each time."""
        answer = await self._forwarder.whole(await self._onward(request, caller))
        base = self._links.base(request.fields, arrival.peer) or arrival.origin
        body = homeward(answer.body, base) if base else answer.body
        fields = answer.fields if body is answer.body else answer.fields.without(_OF_THE_BODY)
        status = CacheStatus(Fwd.BYPASS, answer.status, detail="versions")
        return Answer(Route.VERSIONS, status, response=Response(answer.status, fields, body, answer.reason))


def _unchanged(answer: Response) -> Response:
    """Return the upstream's *answer* as it came, but for the fields that end at a proxy."""
    return Response(answer.status, answer.fields.end_to_end(), answer.body, answer.reason)
