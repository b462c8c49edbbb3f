"""The connections that callers open: limits on what they may send, and no page of aiohttp's own.

Connections on which requests like those that were answered before need not be parsed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from math import ceil
from typing import Any, Final, NamedTuple

from aiohttp import web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest

from proxy.errors import BadRequestError, BrokenBodyError, FieldsTooLargeError, ProxyError, TargetTooLongError
from proxy.observability.logging import event
from proxy.server import adapter
from proxy.server.acceptor import WorkerLoad
from proxy.server.fast_path import METHODS, HeadMemo, Known, Peer, alone


class Asked(NamedTuple):
    """A head that is *known* to the memory, and the *epoch* before anything was looked up for it."""

    known: Known
    epoch: int | None


class Repeating(RequestHandler):
    """One caller's connection; it answers from *memo* what need not be parsed.

    That takes a head that is alone: nothing before it is unfinished, no answer is under way, nothing follows it.
    *asked* is such a head that is on its whole way through now. *answered* is how many requests have got their answers
    to the last byte, each with leave to send another.
    """

    def __init__(self, manager: Any, memo: HeadMemo | None, **settings: Any) -> None:
        super().__init__(manager, **settings)
        self.asked: Asked | None = None
        self.answered = 0
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
        known = self._known(data)
        if known is None or not self._repeated(known):
            self._parse(data, known)

    def _known(self, data: bytes) -> Known | None:
        """Return *data* as the memory knows it, None where it is not a head that an answer may be given to at once."""
        if not self._at_start or self._request_count != self.answered or self._paused:
            return None  # an answer is under way, or still on its way to a slow reader
        if self._peer is None or self._force_close or self._close or not data.startswith(METHODS):
            return None
        return self._peer.known(data)

    def _repeated(self, known: Known) -> bool:
        """Give the answer that the memory has to a *known* head, and return whether it has one."""
        started = time.perf_counter()
        repeat = self._memo.find(known) if self._memo is not None else None
        if repeat is None or self._memo is None or self.transport is None:
            return False
        request_id = known.request_id or self._memo.new_id()
        self.transport.write(b"%b%b\r\n\r\n%b" % (repeat.head, request_id, repeat.body))
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        repeat.seen.served(time.perf_counter() - started, request_id)
        return True

    def _parse(self, data: bytes, known: Known | None) -> None:
        """Let *data* go its whole way; an answer to what is *known* may be remembered if it came alone."""
        memo, single = self._memo, alone(data)
        self.asked = Asked(known, memo.epoch()) if memo is not None and known is not None and single else None
        count = self._request_count
        super().data_received(data)
        # A head that was alone in `data` and made one message without a body ends where `data` does.
        self._at_start = single and self._request_count == count + 1 and self._bodiless
        if not self._at_start:
            self.asked = None

    def was_answered(self) -> None:
        """Count one answer."""
        self.answered += 1

    @property
    def idle(self) -> bool:
        """Whether no request is under way: none came, or none came whole, since the last answer."""
        return self._waiter is not None and not self._waiter.done()

    @property
    def _bodiless(self) -> bool:
        return bool(self._messages) and self._messages[-1][1] is EMPTY_PAYLOAD and not self._upgraded


Handler = Callable[[BaseRequest], Awaitable[web.StreamResponse]]
Unread = Callable[[int, str], None]

FIELD_BYTES: Final = 64 * 1024
TARGET_BYTES: Final = 32 * 1024  # the gateway before IMS takes no longer one either
_LOOK_S: Final = 0.01
_TOLD_S: Final = 60.0


class Connection(Repeating):
    """One caller's connection.

    *cut* says that bytes may have been lost: the parser drops whatever arrives together with a request for an upgrade,
    which is never made here, or after it.
    """

    def __init__(self, manager: Server, memo: HeadMemo | None, **settings: Any) -> None:
        super().__init__(manager, memo, **settings)
        self.cut = False

    def _parse(self, data: bytes, known: Known | None) -> None:
        super()._parse(data, known)
        if not self._at_start:
            self._look_behind()

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
    def ending(self) -> bool:
        """Whether the answer that is given now is the last one: bytes were lost, or the server stops."""
        return self.cut or (isinstance(self._manager, Server) and self._manager.draining)

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
        known_as = adapter.new_request_id()
        if status == 400 and isinstance(self._manager, Server):
            self._manager.unread(error.status, known_as)
        return adapter.refuse_at_once(request, error, known_as=known_as)


class Server(web.Server):
    """Makes a `Connection` for each caller, *most* of them at once.

    *unread* is told the status and the request id of each answer to what could not be read, which no handler sees.
    `load`, where there are several workers, counts the connections.
    """

    def __init__(self, handler: Handler, memo: HeadMemo | None, *, most: int, unread: Unread, **settings: Any) -> None:
        super().__init__(handler, handler_cancellation=True, **settings)
        self.memo = memo
        self.unread = unread
        self.draining = False
        self.load: WorkerLoad | None = None
        self._most = most
        self._told_at = -_TOLD_S

    def __call__(self) -> RequestHandler:
        """Return the protocol of a new connection."""
        return Connection(self, self.memo, loop=self._loop, **self._kwargs)

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """Take a connection in; where there are too many, the first come of those that are idle makes room."""
        super().connection_made(handler, transport)
        if self.load:
            self.load.opened()
        if len(self._connections) <= self._most:
            return
        known = (each for each in self._connections if isinstance(each, Connection))
        next((each for each in known if each.idle and each.transport), handler).force_close()
        now = self._loop.time()
        if now - self._told_at >= _TOLD_S:
            self._told_at = now
            event("connections-full", level=logging.WARNING, most=self._most)

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        """Note that a connection is closed."""
        if self.load:
            self.load.closed()
        super().connection_lost(handler, exc)

    async def drain(self, wait_s: float) -> None:
        """Make every answer from now on the last of its connection; return once nobody is connected, or after *wait_s*.

        A connection without a request under way may have one on its way: it was sent before anyone could know that the
        server stops. It is answered if it comes within that time.

        The time is counted in turns of the event loop, and is longer where the loop lags: a request that arrived during
        a long turn has to be read before its connection is closed.
        """
        self.draining = True
        for _ in range(ceil(wait_s / _LOOK_S)):
            if not self.connections:
                return
            await asyncio.sleep(_LOOK_S)


def _unread(why: BaseException | None) -> ProxyError:
    """Return what to tell of a head that could not be read. The parser's own words may quote it."""
    if isinstance(why, LineTooLong):
        if why.args[1] == TARGET_BYTES:
            return TargetTooLongError(f"request target: longer than {TARGET_BYTES} bytes")
        return FieldsTooLargeError(f"field: longer than {FIELD_BYTES} bytes")
    if isinstance(why, BadHttpMessage) and why.message.startswith("Too many headers"):
        return FieldsTooLargeError("fields: too many")
    return BadRequestError("request: not understood as HTTP/1.1")
