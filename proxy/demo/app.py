"""The look-alike on a socket: an aiohttp server that remembers what it was asked."""

import asyncio
import re
import time
import uuid
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import TYPE_CHECKING, Self

from aiohttp import web

from proxy.demo.catalogue import Catalogue
from proxy.demo.errors import RefusedError
from proxy.demo.rendering import Answer, refusal, throttled
from proxy.demo.routes import Exchange, Route, route_of
from proxy.demo.throttle import Granted, Throttled, ThrottlePolicy, Window, step
from proxy.demo.visibility import Caller

if TYPE_CHECKING:
    from multidict import CIMultiDictProxy

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
    headers: "CIMultiDictProxy[str]" = field(repr=False)
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
