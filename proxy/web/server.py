"""The connections that callers open: limits on what they may send, and no page of aiohttp's own."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

from aiohttp import HttpVersion11, web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest

from proxy.core.routes import route
from proxy.errors import BadRequestError, BrokenBodyError, FieldsTooLargeError, ProxyError, TargetTooLongError
from proxy.gateway.gateway import Gateway
from proxy.gateway.listed import Repeatable
from proxy.telemetry import Telemetry, event
from proxy.web import adapter
from proxy.web.half_closed import HalfClosing
from proxy.web.heads import METHODS, alone
from proxy.web.memo import HeadMemo, Known, Peer
from proxy.web.written import Written

Handler = Callable[[BaseRequest], Awaitable[web.StreamResponse]]

FIELD_BYTES: Final = 64 * 1024
TARGET_BYTES: Final = 32 * 1024  # the gateway before IMS takes no longer one either
_KEEP_ALIVE_S: Final = 75.0
_LOOK_S: Final = 0.01
_TOLD_S: Final = 60.0


class Asked(NamedTuple):
    """A head that is *known* to the memory, and the *epoch* before anything was looked up for it."""

    known: Known
    epoch: int | None


class Connection(HalfClosing):
    """One caller's connection; it answers from *memo* what need not be parsed.

    That takes a head that is alone: nothing before it is unfinished, no answer is under way, nothing follows it.
    *asked* is such a head that is on its whole way through now. *cut* says that bytes may have been lost: what comes
    with a request for an upgrade that is not made, and behind it, the parser drops.
    """

    def __init__(self, manager: Server, memo: HeadMemo | None, **settings: Any) -> None:
        super().__init__(manager, **settings)
        self.asked: Asked | None = None
        self.cut = False
        self._memo = memo
        self._peer: Peer | None = None
        self._at_start = True  # what comes next is the beginning of a message

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note where the connection comes from."""
        super().connection_made(transport)
        if self._memo is not None:
            peer = transport.get_extra_info("peername")
            address = str(peer[0]) if isinstance(peer, tuple) else ""
            self._peer = self._memo.peer(address, tls=transport.get_extra_info("sslcontext") is not None)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Keep nothing of what was sent."""
        super().connection_lost(exc)
        if self._peer is not None:
            self._peer.forget()

    def data_received(self, data: bytes) -> None:
        """Answer *data* if it is a request that was answered lately, else let it be parsed."""
        memo, known = self._memo, self._known(data)
        if memo is not None and known is not None and self._repeated(memo, known):
            return
        single = alone(data)
        self.asked = Asked(known, memo.epoch()) if memo is not None and known is not None and single else None
        count = self._request_count
        super().data_received(data)
        # A head that was alone in `data` and made one message without a body ends where `data` does.
        self._at_start = single and self._request_count == count + 1 and self._bodiless
        if not self._at_start:
            self.asked = None
            self._look_behind()

    def _known(self, data: bytes) -> Known | None:
        """Return *data* as the memory knows it, None where it is not a head that an answer may be given to at once."""
        if not self._at_start or self._request_count != self.answered or self._paused:
            return None  # an answer is under way, or still on its way to a slow reader
        if self._peer is None or self._force_close or self._close or not data.startswith(METHODS):
            return None
        return self._peer.known(data)

    def _repeated(self, memo: HeadMemo, known: Known) -> bool:
        """Give the answer that *memo* has, and return whether it has one."""
        started = time.perf_counter()
        repeat = memo.find(known)
        if repeat is None or self.transport is None:
            return False
        request_id = known.request_id or memo.new_id()
        self.transport.write(b"%b%b\r\n\r\n%b" % (repeat.head, request_id, repeat.body))
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        repeat.seen.served(time.perf_counter() - started, request_id)
        return True

    def _look_behind(self) -> None:
        """Make up for what the parser leaves behind: bytes that it drops, and a body that it never ends."""
        if not self._messages:
            return
        self.cut = self.cut or any(getattr(message, "upgrade", False) for message, _ in self._messages)
        if not isinstance(self._messages[-1][0], RawRequestMessage):  # it stopped in the middle of something
            current = self._current_request
            unfinished = self._messages[-2][1] if len(self._messages) > 1 else current and current.content
            if unfinished and not unfinished.is_eof():
                unfinished.set_exception(BrokenBodyError("body: chunks that can't be divided"))

    @property
    def idle(self) -> bool:
        """Whether no request is under way: none came, or none came whole, since the last answer."""
        return self._waiter is not None

    @property
    def ending(self) -> bool:
        """Whether the answer that is given now is the last one: bytes were lost, or the server stops."""
        return self.cut or (isinstance(self._manager, Server) and self._manager.draining)

    @property
    def _bodiless(self) -> bool:
        return bool(self._messages) and self._messages[-1][1] is EMPTY_PAYLOAD and not self._upgraded

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - may quote header bytes
    ) -> web.StreamResponse:
        """Return the answer to what could not be read: aiohttp's own page would quote it."""
        error = _unread(exc)
        if status != 400:
            error = ProxyError("proxy: failed")
            if not isinstance(exc, (ProxyError, ConnectionError)):  # somebody broke off, which was counted as it is
                event("failed", level=logging.ERROR, error=type(exc).__name__)
        if request.writer.output_size:
            raise ConnectionResetError("caller: has half an answer, which only breaking off can tell")
        # Of a head that could not be read nothing is to be believed, its request id neither.
        return adapter.refuse_at_once(request, error, known_as=adapter.new_request_id())


class Server(web.Server):
    """Makes a `Connection` for each caller, *most* of them at once."""

    def __init__(self, handler: Handler, memo: HeadMemo | None, *, most: int, **settings: Any) -> None:
        super().__init__(handler, handler_cancellation=True, **settings)
        self.memo = memo
        self.draining = False
        self._most = most
        self._told_at = -_TOLD_S

    def __call__(self) -> RequestHandler:
        """Return the protocol of a new connection."""
        return Connection(self, self.memo, loop=self._loop, **self._kwargs)

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """Take a connection in; where there are too many, the one that has been idle since it came first makes room."""
        super().connection_made(handler, transport)
        if len(self._connections) <= self._most:
            return
        known = (each for each in self._connections if isinstance(each, Connection))
        next((each for each in known if each.idle and each.transport), handler).force_close()
        now = self._loop.time()
        if now - self._told_at >= _TOLD_S:
            self._told_at = now
            event("connections-full", level=logging.WARNING, most=self._most)

    async def drain(self, wait_s: float) -> None:
        """Make every answer from now on the last of its connection; return once nobody is connected, or after *wait_s*.

        A connection without a request under way may have one on its way: it was sent before anyone could know that the
        server stops. It is answered if it comes within that time.
        """
        self.draining = True
        until = self._loop.time() + wait_s
        while self.connections and self._loop.time() < until:  # noqa: ASYNC110 - aiohttp tells nobody of the last one
            await asyncio.sleep(_LOOK_S)


class Front:
    """Answers callers: translates, times, counts, and nothing more."""

    def __init__(
        self,
        gateway: Gateway,
        telemetry: Telemetry,
        *,
        memo: HeadMemo | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._gateway = gateway
        self._telemetry = telemetry
        self._memo = memo
        self._clock = clock

    def server(self, *, most: int) -> Server:
        """Return the server for a listener, which has *most* connections at once."""
        settings: dict[str, Any] = {
            "access_log": None,
            "keepalive_timeout": _KEEP_ALIVE_S,
            "max_line_size": TARGET_BYTES,
            "max_field_size": FIELD_BYTES,
            "auto_decompress": False,  # a body goes up as it came
        }
        return Server(self.handle, self._memo, most=most, **settings)

    async def handle(self, request: BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        started = self._clock()
        known_as = adapter.request_id(request)
        label, cache_status, status = route(request.raw_path.partition("?")[0]).value, "error", 500
        try:
            asked = adapter.received(request, known_as=known_as)
            async with self._gateway.answer(asked, adapter.caller(request)) as answer:
                cache_status = answer.cache_status.label
                response = await adapter.respond(request, answer, known_as=known_as, last=_last(request))
                if answer.repeatable and isinstance(response, Written):
                    self._remember(request, response, label, answer.repeatable)
            status = response.status
        except ProxyError as error:
            status = error.status
            response = await self._refused(request, error, known_as=known_as)
        except (asyncio.CancelledError, ConnectionError):
            status = 499  # the caller went away
            raise
        finally:
            self._telemetry.served(
                method=request.method if request.method in _METHODS else "other",
                route=label,
                status=status,
                cache_status=cache_status,
                elapsed_s=self._clock() - started,
                request_id=known_as,
            )
        if response.keep_alive and isinstance(request.protocol, Connection):
            request.protocol.was_answered()
        elif adapter.keeps_its_body(request):
            request.protocol.force_close()  # aiohttp would wait for a body that never comes
        return response

    def _remember(self, request: BaseRequest, sent: Written, label: str, allowed: Repeatable) -> None:
        """Remember what was *sent*, if *request* may be told from the bytes that it came in."""
        connection = request.protocol
        if self._memo is None or not isinstance(connection, Connection) or connection.asked is None:
            return
        if request.version != HttpVersion11 or not sent.keep_alive:
            return  # the next such request comes on another connection
        seen = self._telemetry.seen(method=request.method, route=label, status=sent.status, cache_status="hit")
        known, epoch = connection.asked
        self._memo.remember(known, allowed, epoch=epoch, head=sent.head, body=sent.body, seen=seen)

    async def _refused(self, request: BaseRequest, error: ProxyError, *, known_as: str) -> web.StreamResponse:
        if request.writer.output_size:
            # The head is out already: only breaking off tells the caller that the rest is missing.
            if request.transport is not None:
                request.transport.abort()
            raise error
        return await adapter.refuse(request, error, known_as=known_as, last=_last(request) or error.last)


def _last(request: BaseRequest) -> bool:
    """Whether nothing may be read from a connection behind *request*.

    The last trailer of a body in chunks is taken by aiohttp's parser for a field of the next request: were that another
    caller's, who shares a connection with this one further down, it would carry what this caller wrote.
    """
    connection = request.protocol
    ending = isinstance(connection, Connection) and connection.ending
    return ending or "Transfer-Encoding" in request.headers or adapter.keeps_its_body(request)


def _unread(why: BaseException | None) -> ProxyError:
    """Return what to tell of a head that could not be read. The parser's own words may quote it."""
    if isinstance(why, LineTooLong):
        if why.args[1] == TARGET_BYTES:
            return TargetTooLongError(f"request target: longer than {TARGET_BYTES} bytes")
        return FieldsTooLargeError(f"field: longer than {FIELD_BYTES} bytes")
    if isinstance(why, BadHttpMessage) and why.message.startswith("Too many headers"):
        return FieldsTooLargeError("fields: too many")
    return BadRequestError("request: not understood as HTTP/1.1")


_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
