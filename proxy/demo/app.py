"""The look-alike on a socket: an aiohttp server that records what it was asked and routes it to the catalogue. Handlers
translate; they decide nothing.
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
from proxy.demo.query import ImsError, parse_query_pairs
from proxy.demo.rendering import (
    ApiResponse,
    json_response,
    render_cloudimages,
    render_error,
    render_list,
    render_throttled,
)
from proxy.demo.throttle import Granted, Throttled, ThrottlePolicy, ThrottleWindow, throttle_call

if TYPE_CHECKING:
    from multidict import CIMultiDictProxy


PATCH_TYPES = ("application/openstack-images-v2.1-json-patch", "application/openstack-images-v2.0-json-patch")


@dataclass(frozen=True, slots=True)
class RequestContext:
    """One request, as handlers get it: *path_args* are the variable segments of its path, *query* is raw."""

    catalogue: Catalogue
    caller: Caller
    path_args: tuple[str, ...]
    query: str
    host: str
    content_type: str
    body: bytes
    now: float
    generate_id: Callable[[], str]


Handler = Callable[[RequestContext], ApiResponse]


@dataclass(frozen=True, slots=True)
class Route:
    """A path, as a *template* with ``{}`` for its variable segments, and what answers each of its methods."""

    template: str
    methods: Mapping[str, Handler]
    is_public: bool = False


def match_route(path: str) -> tuple[Route, tuple[str, ...]] | None:
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


def _list_images(context: RequestContext) -> ApiResponse:
    pairs = parse_query_pairs(context.query)
    return render_list(context.catalogue.list_images(context.caller, pairs), pairs)


def _list_cloudimages(context: RequestContext) -> ApiResponse:
    return render_cloudimages(context.catalogue.list_cloudimages(context.caller, parse_query_pairs(context.query)))


def _get_image(context: RequestContext) -> ApiResponse:
    return ApiResponse(200, context.catalogue.get_readable(context.caller, *context.path_args).json_bytes)


def _create_image(context: RequestContext) -> ApiResponse:
    image = writes.create_image(
        context.catalogue, context.caller, _parse_json_body(context), image_id=context.generate_id(), now=context.now
    )
    return ApiResponse(201, image.json_bytes, headers={"Location": f"/v2/images/{image.id}"})


def _patch_image(context: RequestContext) -> ApiResponse:
    if context.content_type not in PATCH_TYPES:
        raise ImsError(415, f"Content-Type: none of {', '.join(PATCH_TYPES)}")
    (image_id,) = context.path_args
    image = writes.patch_image(context.catalogue, context.caller, image_id, _parse_json_body(context), now=context.now)
    return ApiResponse(200, image.json_bytes)


def _delete_image(context: RequestContext) -> ApiResponse:
    writes.delete_image(context.catalogue, context.caller, *context.path_args)
    return ApiResponse(204)


def _upload_data(context: RequestContext) -> ApiResponse:
    (image_id,) = context.path_args
    writes.upload_data(context.catalogue, context.caller, image_id, context.body, now=context.now)
    return ApiResponse(204)


def _download_data(context: RequestContext) -> ApiResponse:
    image = context.catalogue.get_readable(context.caller, *context.path_args)
    content = context.catalogue.contents.get(image.id)
    return ApiResponse(204) if content is None else ApiResponse(200, content, "application/octet-stream")


def _add_tag(context: RequestContext) -> ApiResponse:
    writes.add_tag(context.catalogue, context.caller, *context.path_args, now=context.now)
    return ApiResponse(204)


def _delete_tag(context: RequestContext) -> ApiResponse:
    writes.delete_tag(context.catalogue, context.caller, *context.path_args, now=context.now)
    return ApiResponse(204)


def _list_members(context: RequestContext) -> ApiResponse:
    found = members.list_members(context.catalogue, context.caller, *context.path_args)
    return json_response({"members": found, "schema": "/v2/schemas/members"})


def _create_member(context: RequestContext) -> ApiResponse:
    (image_id,) = context.path_args
    project = _json_body_field(context, "member")
    return json_response(members.create_member(context.catalogue, context.caller, image_id, project, now=context.now))


def _get_member(context: RequestContext) -> ApiResponse:
    return json_response(members.get_member(context.catalogue, context.caller, *context.path_args))


def _update_member(context: RequestContext) -> ApiResponse:
    image_id, project = context.path_args
    status = _json_body_field(context, "status")
    return json_response(
        members.update_member(context.catalogue, context.caller, image_id, project, status, now=context.now)
    )


def _delete_member(context: RequestContext) -> ApiResponse:
    members.delete_member(context.catalogue, context.caller, *context.path_args)
    return ApiResponse(204)


def _get_schema(context: RequestContext) -> ApiResponse:
    schema = documents.schema_document(*context.path_args)
    if schema is None:
        raise ImsError(404, f"no schema {context.path_args[0]}")
    return json_response(schema)


def _list_os_versions(context: RequestContext) -> ApiResponse:
    return json_response(
        documents.os_versions_document(image for image in context.catalogue if image.visibility == "public")
    )


def _get_quota(context: RequestContext) -> ApiResponse:
    return json_response(
        documents.quota_document(sum(image.owner == context.caller.project for image in context.catalogue))
    )


def _list_version_choices(context: RequestContext) -> ApiResponse:
    return json_response(documents.versions_document(context.host), status=300)


def _list_versions(context: RequestContext) -> ApiResponse:
    return json_response(documents.versions_document(context.host))


def _parse_json_body(context: RequestContext) -> object:
    try:
        document: object = orjson.loads(context.body)
    except orjson.JSONDecodeError:
        raise ImsError(400, "body: not JSON") from None
    return document


def _json_body_field(context: RequestContext, name: str) -> object:
    document = _parse_json_body(context)
    return document.get(name) if isinstance(document, dict) else None


ROUTES = (
    Route("/v2/images", {"GET": _list_images, "POST": _create_image}),
    Route("/v2/cloudimages", {"GET": _list_cloudimages}),
    Route("/v2/images/{}", {"GET": _get_image, "PATCH": _patch_image, "DELETE": _delete_image}),
    Route("/v2/images/{}/file", {"GET": _download_data, "PUT": _upload_data}),
    Route("/v2/images/{}/tags/{}", {"PUT": _add_tag, "DELETE": _delete_tag}),
    Route("/v2/images/{}/members", {"GET": _list_members, "POST": _create_member}),
    Route("/v2/images/{}/members/{}", {"GET": _get_member, "PUT": _update_member, "DELETE": _delete_member}),
    Route("/v2/schemas/{}", {"GET": _get_schema}),
    Route("/v1/cloudimages/os_version", {"GET": _list_os_versions}),
    Route("/v1/cloudimages/quota", {"GET": _get_quota}),
    Route("/", {"GET": _list_version_choices}, is_public=True),
    Route("/versions", {"GET": _list_versions}, is_public=True),
)


MAX_RECORDED_CALLS = 10_000
MAX_HEADER_BYTES = 128 * 1024
MAX_BODY_BYTES = 64 * 1024 * 1024
SHUTDOWN_TIMEOUT_S = 1.0
ANONYMOUS = Caller("", "", ())


@dataclass(slots=True)
class RecordedCall:
    """A request as it arrived: *target* is the raw request target. *status* is None until it has been answered."""

    method: str
    target: str
    headers: CIMultiDictProxy[str] = field(repr=False)
    status: int | None = None
    transport: asyncio.Transport | None = field(default=None, repr=False)

    def abort_connection(self) -> None:
        """Cut the connection, as an upstream does that dies on the way."""
        if self.transport is not None:
            self.transport.abort()


RouteMatch = tuple[Route, tuple[str, ...]] | None
ResponseHook = Callable[[RecordedCall], Awaitable[web.StreamResponse | None]]


class ImsLookalike:
    """An IMS endpoint in this process.

    *calls* holds the latest requests, entered as they arrive, and *call_counts* how often each method and route was
    asked for, like ``GET /v2/images``. A *response_hook* is consulted before the normal answer: what it returns is sent
    instead, None lets the answer come. *latency_s* is slept before each answer.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        tokens: Mapping[str, Caller],
        *,
        throttle: ThrottlePolicy | None = None,
        clock: Callable[[], float] = time.time,
        latency_s: float = 0.0,
        generate_id: Callable[[], str] = lambda: str(uuid.uuid4()),
    ) -> None:
        self.catalogue = catalogue
        self.tokens = dict(tokens)
        self.throttle = throttle
        self.latency_s = latency_s
        self.response_hook: ResponseHook | None = None
        self.calls: deque[RecordedCall] = deque(maxlen=MAX_RECORDED_CALLS)
        self.call_counts: Counter[str] = Counter()
        self.base_url = ""
        self._clock = clock
        self._generate_id = generate_id
        self._throttle_windows: dict[str, ThrottleWindow] = {}
        self._request_count = 0
        self._runner: web.ServerRunner | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen, on a free port unless one is named, and return the base URL; raises OSError."""
        assert self._runner is None, "started already"
        server = web.Server(self._handle, max_line_size=MAX_HEADER_BYTES, max_field_size=MAX_HEADER_BYTES)
        runner = web.ServerRunner(server, shutdown_timeout=SHUTDOWN_TIMEOUT_S)
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

    def clear_recorded_calls(self) -> None:
        """Begin to remember anew."""
        self.calls.clear()
        self.call_counts.clear()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        call = RecordedCall(request.method, request.raw_path, request.headers, transport=request.transport)
        self.calls.append(call)
        self._request_count += 1
        request_id = f"{self._request_count:032x}"
        path, _, query = _origin_form(request.raw_path).partition("?")
        found = match_route(path)
        self.call_counts[f"{request.method} {found[0].template if found else 'elsewhere'}"] += 1
        if self.latency_s > 0:
            await asyncio.sleep(self.latency_s)
        response = None if self.response_hook is None else await self.response_hook(call)
        if response is None:
            answer = await self._build_response(request, found, query, request_id)
            response = web.Response(
                status=answer.status,
                body=answer.body or None,
                content_type=answer.content_type if answer.body else None,
                headers=answer.headers,
            )
        response.headers.setdefault("X-Request-Id", request_id)
        call.status = response.status
        return response

    async def _build_response(
        self, request: web.BaseRequest, match: RouteMatch, query: str, request_id: str
    ) -> ApiResponse:
        """Return the normal answer: who is asking, then whether it may ask now, then what there is to say."""
        open_to_all = match is not None and match[0].is_public
        headers = {}
        try:
            caller = ANONYMOUS if open_to_all else self._authenticate(request)
            if self.throttle is not None and not open_to_all:
                verdict = self._throttle_call(self.throttle, caller)
                if isinstance(verdict, Throttled):
                    return render_throttled(self.throttle, request_id=request_id)
                headers["X-Apig-RateLimit-User"] = verdict.header_value(self.throttle)
            answer = await self._dispatch(request, match, query, caller)
        except ImsError as error:
            answer = render_error(error)
        return replace(answer, headers={**answer.headers, **headers})

    def _authenticate(self, request: web.BaseRequest) -> Caller:
        tokens = request.headers.getall("X-Auth-Token", [])
        caller = self.tokens.get(tokens[0]) if len(tokens) == 1 else None
        if caller is None:
            raise ImsError(401, "no token, or none that is known")
        return caller

    def _throttle_call(self, policy: ThrottlePolicy, caller: Caller) -> Granted | Throttled:
        window = self._throttle_windows.get(caller.project, ThrottleWindow())
        verdict, self._throttle_windows[caller.project] = throttle_call(policy, window, now=self._clock())
        return verdict

    async def _dispatch(self, request: web.BaseRequest, match: RouteMatch, query: str, caller: Caller) -> ApiResponse:
        if match is None:
            raise ImsError(404, "no such path")
        route, args = match
        handler = route.methods.get(request.method)
        if handler is None:
            return replace(
                render_error(ImsError(405, f"{request.method}: not a method of this path")),
                headers={"Allow": ", ".join(route.methods)},
            )
        exchange = RequestContext(
            catalogue=self.catalogue,
            caller=caller,
            path_args=args,
            query=query,
            host=request.headers.get("Host", ""),
            content_type=request.headers.get("Content-Type", "").partition(";")[0].strip().lower(),
            body=await _read_body(request),
            now=self._clock(),
            generate_id=self._generate_id,
        )
        return handler(exchange)


def _origin_form(target: str) -> str:
    """Return a request target without scheme and authority, which a client may send (RFC 9112 §3.2.2)."""
    return re.sub(r"^https?://[^/?]*", "", target, flags=re.IGNORECASE) or "/"


async def _read_body(request: web.BaseRequest) -> bytes:
    """Return the request's body; raises RefusedError (413) beyond *BODY_BYTES*."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise ImsError(413, f"body: more than {MAX_BODY_BYTES} bytes")
    return bytes(body)
