"""The look-alike on a socket: an aiohttp server that remembers what it was asked.

Which request goes where, and how each is put to the catalogue. Handlers translate; they decide nothing.
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import TYPE_CHECKING, Self
from urllib.parse import unquote_to_bytes

import orjson
from aiohttp import web

from proxy.demo import rendering as documents
from proxy.demo import writes
from proxy.demo import writes as members
from proxy.demo.catalogue import Catalogue
from proxy.demo.filters import Caller
from proxy.demo.query import RefusedError, pairs_of
from proxy.demo.rendering import Answer, cloudimages, json_answer, listing, refusal, throttled
from proxy.demo.throttle import Granted, Throttled, ThrottlePolicy, Window, step

if TYPE_CHECKING:
    from multidict import CIMultiDictProxy


PATCH_TYPES = ("application/openstack-images-v2.1-json-patch", "application/openstack-images-v2.0-json-patch")


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request, as handlers get it: *args* are the variable segments of its path, *query* is raw."""

    catalogue: Catalogue
    caller: Caller
    args: tuple[str, ...]
    query: str
    host: str
    content_type: str
    body: bytes
    now: float
    new_id: Callable[[], str]


Handler = Callable[[Exchange], Answer]


@dataclass(frozen=True, slots=True)
class Route:
    """A path, as a *template* with ``{}`` for its variable segments, and what answers each of its methods."""

    template: str
    methods: Mapping[str, Handler]
    open_to_all: bool = False


def route_of(path: str) -> tuple[Route, tuple[str, ...]] | None:
    """Return the route of a raw *path* and its arguments, or None for a path that leads nowhere.

    As in Glance, the path is decoded first, slashes in a row count once, any minor version is that of v2, and a
    trailing slash makes another path.
    """
    decoded = unquote_to_bytes(path.encode("utf-8", "surrogateescape")).decode("utf-8", "replace")
    decoded = re.sub(r"^/v2\.[0-9]+/", "/v2/", re.sub("/+", "/", decoded))
    segments = decoded.split("/")
    for route in ROUTES:
        template = route.template.split("/")
        pairs = list(zip(template, segments, strict=False))
        if len(template) == len(segments) and all(wanted in ("{}" if given else "", given) for wanted, given in pairs):
            return route, tuple(given for wanted, given in pairs if wanted == "{}")
    return None


def _images(exchange: Exchange) -> Answer:
    pairs = pairs_of(exchange.query)
    return listing(exchange.catalogue.images(exchange.caller, pairs), pairs)


def _cloudimages(exchange: Exchange) -> Answer:
    return cloudimages(exchange.catalogue.cloudimages(exchange.caller, pairs_of(exchange.query)))


def _image(exchange: Exchange) -> Answer:
    return Answer(200, exchange.catalogue.find(exchange.caller, *exchange.args).rendered)


def _create(exchange: Exchange) -> Answer:
    image = writes.create(
        exchange.catalogue, exchange.caller, _json(exchange), image_id=exchange.new_id(), now=exchange.now
    )
    return Answer(201, image.rendered, headers={"Location": f"/v2/images/{image.id}"})


def _patch(exchange: Exchange) -> Answer:
    if exchange.content_type not in PATCH_TYPES:
        raise RefusedError(415, f"Content-Type: none of {', '.join(PATCH_TYPES)}")
    (image_id,) = exchange.args
    image = writes.patch(exchange.catalogue, exchange.caller, image_id, _json(exchange), now=exchange.now)
    return Answer(200, image.rendered)


def _delete(exchange: Exchange) -> Answer:
    writes.delete(exchange.catalogue, exchange.caller, *exchange.args)
    return Answer(204)


def _upload(exchange: Exchange) -> Answer:
    (image_id,) = exchange.args
    writes.upload(exchange.catalogue, exchange.caller, image_id, exchange.body, now=exchange.now)
    return Answer(204)


def _download(exchange: Exchange) -> Answer:
    image = exchange.catalogue.find(exchange.caller, *exchange.args)
    content = exchange.catalogue.contents.get(image.id)
    return Answer(204) if content is None else Answer(200, content, "application/octet-stream")


def _tag(exchange: Exchange) -> Answer:
    writes.tag(exchange.catalogue, exchange.caller, *exchange.args, now=exchange.now)
    return Answer(204)


def _untag(exchange: Exchange) -> Answer:
    writes.untag(exchange.catalogue, exchange.caller, *exchange.args, now=exchange.now)
    return Answer(204)


def _members(exchange: Exchange) -> Answer:
    found = members.members(exchange.catalogue, exchange.caller, *exchange.args)
    return json_answer({"members": found, "schema": "/v2/schemas/members"})


def _invite(exchange: Exchange) -> Answer:
    (image_id,) = exchange.args
    project = _field(exchange, "member")
    return json_answer(members.invite(exchange.catalogue, exchange.caller, image_id, project, now=exchange.now))


def _member(exchange: Exchange) -> Answer:
    return json_answer(members.member(exchange.catalogue, exchange.caller, *exchange.args))


def _answer_invitation(exchange: Exchange) -> Answer:
    image_id, project = exchange.args
    status = _field(exchange, "status")
    return json_answer(
        members.answer_invitation(exchange.catalogue, exchange.caller, image_id, project, status, now=exchange.now)
    )


def _expel(exchange: Exchange) -> Answer:
    members.expel(exchange.catalogue, exchange.caller, *exchange.args)
    return Answer(204)


def _schema(exchange: Exchange) -> Answer:
    schema = documents.schema(*exchange.args)
    if schema is None:
        raise RefusedError(404, f"no schema {exchange.args[0]}")
    return json_answer(schema)


def _os_versions(exchange: Exchange) -> Answer:
    return json_answer(documents.os_versions(image for image in exchange.catalogue if image.visibility == "public"))


def _quota(exchange: Exchange) -> Answer:
    return json_answer(documents.quota(sum(image.owner == exchange.caller.project for image in exchange.catalogue)))


def _choices(exchange: Exchange) -> Answer:
    return json_answer(documents.versions(exchange.host), status=300)


def _versions(exchange: Exchange) -> Answer:
    return json_answer(documents.versions(exchange.host))


def _json(exchange: Exchange) -> object:
    try:
        document: object = orjson.loads(exchange.body)
    except orjson.JSONDecodeError:
        raise RefusedError(400, "body: not JSON") from None
    return document


def _field(exchange: Exchange, name: str) -> object:
    document = _json(exchange)
    return document.get(name) if isinstance(document, dict) else None


ROUTES = (
    Route("/v2/images", {"GET": _images, "POST": _create}),
    Route("/v2/cloudimages", {"GET": _cloudimages}),
    Route("/v2/images/{}", {"GET": _image, "PATCH": _patch, "DELETE": _delete}),
    Route("/v2/images/{}/file", {"GET": _download, "PUT": _upload}),
    Route("/v2/images/{}/tags/{}", {"PUT": _tag, "DELETE": _untag}),
    Route("/v2/images/{}/members", {"GET": _members, "POST": _invite}),
    Route("/v2/images/{}/members/{}", {"GET": _member, "PUT": _answer_invitation, "DELETE": _expel}),
    Route("/v2/schemas/{}", {"GET": _schema}),
    Route("/v1/cloudimages/os_version", {"GET": _os_versions}),
    Route("/v1/cloudimages/quota", {"GET": _quota}),
    Route("/", {"GET": _choices}, open_to_all=True),
    Route("/versions", {"GET": _versions}, open_to_all=True),
)


CALLS_KEPT = 10_000
HEADER_BYTES = 128 * 1024
BODY_BYTES = 64 * 1024 * 1024
STOP_S = 1.0
NOBODY = Caller("", "", ())


@dataclass(slots=True)
class Call:
    """A request as it arrived: *target* is the raw request target. *status* is None until it has been answered."""

    method: str
    target: str
    headers: CIMultiDictProxy[str] = field(repr=False)
    status: int | None = None
    transport: asyncio.Transport | None = field(default=None, repr=False)

    def hang_up(self) -> None:
        """Cut the connection, as an upstream does that dies on the way."""
        if self.transport is not None:
            self.transport.abort()


Found = tuple[Route, tuple[str, ...]] | None
Script = Callable[[Call], Awaitable[web.StreamResponse | None]]


class Lookalike:
    """An IMS endpoint in this process.

    *calls* holds the latest requests, entered as they arrive, and *counts* how often each method and route was asked
    for, like ``GET /v2/images``. A *script* is consulted before the normal answer: what it returns is sent instead,
    None lets the answer come. *latency_s* is slept before each answer.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        tokens: Mapping[str, Caller],
        *,
        throttle: ThrottlePolicy | None = None,
        clock: Callable[[], float] = time.time,
        latency_s: float = 0.0,
        new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
    ) -> None:
        self.catalogue = catalogue
        self.tokens = dict(tokens)
        self.throttle = throttle
        self.latency_s = latency_s
        self.script: Script | None = None
        self.calls: deque[Call] = deque(maxlen=CALLS_KEPT)
        self.counts: Counter[str] = Counter()
        self.base_url = ""
        self._clock = clock
        self._new_id = new_id
        self._windows: dict[str, Window] = {}
        self._answered = 0
        self._runner: web.ServerRunner | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen, on a free port unless one is named, and return the base URL; raises OSError."""
        assert self._runner is None, "started already"
        server = web.Server(self._respond, max_line_size=HEADER_BYTES, max_field_size=HEADER_BYTES)
        runner = web.ServerRunner(server, shutdown_timeout=STOP_S)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner
        self.base_url = f"http://{host}:{runner.addresses[0][1]}"
        return self.base_url

    async def close(self) -> None:
        """Stop listening; what is still being answered has *STOP_S* seconds. It may be started again."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def forget(self) -> None:
        """Begin to remember anew."""
        self.calls.clear()
        self.counts.clear()

    async def _respond(self, request: web.BaseRequest) -> web.StreamResponse:
        call = Call(request.method, request.raw_path, request.headers, transport=request.transport)
        self.calls.append(call)
        self._answered += 1
        request_id = f"{self._answered:032x}"
        path, _, query = _origin_form(request.raw_path).partition("?")
        found = route_of(path)
        self.counts[f"{request.method} {found[0].template if found else 'elsewhere'}"] += 1
        if self.latency_s > 0:
            await asyncio.sleep(self.latency_s)
        response = None if self.script is None else await self.script(call)
        if response is None:
            answer = await self._answer(request, found, query, request_id)
            response = web.Response(
                status=answer.status,
                body=answer.body or None,
                content_type=answer.content_type if answer.body else None,
                headers=answer.headers,
            )
        response.headers.setdefault("X-Request-Id", request_id)
        call.status = response.status
        return response

    async def _answer(self, request: web.BaseRequest, found: Found, query: str, request_id: str) -> Answer:
        """Return the normal answer: who is asking, then whether it may ask now, then what there is to say."""
        open_to_all = found is not None and found[0].open_to_all
        headers = {}
        try:
            caller = NOBODY if open_to_all else self._caller(request)
            if self.throttle is not None and not open_to_all:
                verdict = self._step(self.throttle, caller)
                if isinstance(verdict, Throttled):
                    return throttled(self.throttle, request_id=request_id)
                headers["X-Apig-RateLimit-User"] = verdict.header(self.throttle)
            answer = await self._handled(request, found, query, caller)
        except RefusedError as error:
            answer = refusal(error)
        return replace(answer, headers={**answer.headers, **headers})

    def _caller(self, request: web.BaseRequest) -> Caller:
        tokens = request.headers.getall("X-Auth-Token", [])
        caller = self.tokens.get(tokens[0]) if len(tokens) == 1 else None
        if caller is None:
            raise RefusedError(401, "no token, or none that is known")
        return caller

    def _step(self, policy: ThrottlePolicy, caller: Caller) -> Granted | Throttled:
        window = self._windows.get(caller.project, Window())
        verdict, self._windows[caller.project] = step(policy, window, now=self._clock())
        return verdict

    async def _handled(self, request: web.BaseRequest, found: Found, query: str, caller: Caller) -> Answer:
        if found is None:
            raise RefusedError(404, "no such path")
        route, args = found
        handler = route.methods.get(request.method)
        if handler is None:
            return replace(
                refusal(RefusedError(405, f"{request.method}: not a method of this path")),
                headers={"Allow": ", ".join(route.methods)},
            )
        exchange = Exchange(
            catalogue=self.catalogue,
            caller=caller,
            args=args,
            query=query,
            host=request.headers.get("Host", ""),
            content_type=request.headers.get("Content-Type", "").partition(";")[0].strip().lower(),
            body=await _body(request),
            now=self._clock(),
            new_id=self._new_id,
        )
        return handler(exchange)


def _origin_form(target: str) -> str:
    """Return a request target without scheme and authority, which a client may send (RFC 9112 §3.2.2)."""
    return re.sub(r"^https?://[^/?]*", "", target, flags=re.IGNORECASE) or "/"


async def _body(request: web.BaseRequest) -> bytes:
    """Return the request's body; raises RefusedError (413) beyond *BODY_BYTES*."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > BODY_BYTES:
            raise RefusedError(413, f"body: more than {BODY_BYTES} bytes")
    return bytes(body)
