"""The connections that callers open: limits on what they may send, and no page of aiohttp's own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from math import ceil
from typing import Any, Final

from aiohttp import web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest

from proxy.errors import BadRequestError, BrokenBodyError, FieldsTooLargeError, ProxyError, TargetTooLongError
from proxy.observability.logging import event
from proxy.server import adapter
from proxy.server.fast_path import HeadMemo, Known
from proxy.server.repeating import Repeating
from proxy.server.worker_load import WorkerLoad

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
