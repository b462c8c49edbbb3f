"""Client connections: limits on what may be sent, and no page of aiohttp's own. A head that was answered before is not
parsed again.
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
from proxy.observability.logging import log_event
from proxy.server import adapter
from proxy.server.acceptor import WorkerLoad
from proxy.server.fast_path import REPLAYED_METHODS, HeadDigest, HeadDigester, ReplayCache, is_single_head


class PendingHead(NamedTuple):
    """A head that is *head_digest* to the memory, and the *epoch* before anything was looked up for it."""

    head_digest: HeadDigest
    epoch: int | None


class ReplayingConnection(RequestHandler):
    """One caller's connection; it answers from *replay_cache* what need not be parsed.

    That takes a head that is alone: nothing before it is unfinished, no answer is under way, nothing follows it.
    *pending_head* is such a head that is on its whole way through now. *answered_count* is how many requests have got
    their answers to the last byte, each with leave to send another.
    """

    def __init__(self, manager: Any, replay_cache: ReplayCache | None, **settings: Any) -> None:
        super().__init__(manager, **settings)
        self.pending_head: PendingHead | None = None
        self.answered_count = 0
        self._replay_cache = replay_cache
        self._head_digester: HeadDigester | None = None
        self._is_at_message_start = True  # what comes next is the beginning of a message

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note where the connection comes from."""
        super().connection_made(transport)
        if self._replay_cache is not None:
            peer = transport.get_extra_info("peername")
            address = str(peer[0]) if isinstance(peer, tuple) else ""
            self._head_digester = self._replay_cache.make_digester(
                address, tls=transport.get_extra_info("sslcontext") is not None
            )

    def connection_lost(self, exc: BaseException | None) -> None:
        """Keep nothing of what was sent."""
        super().connection_lost(exc)
        if self._head_digester is not None:
            self._head_digester.forget()

    def data_received(self, data: bytes) -> None:
        """Answer *data* if it is a request that was answered lately, else let it be parsed."""
        known = self._digest_replayable_head(data)
        if known is None or not self._try_replay(known):
            self._parse(data, known)

    def _digest_replayable_head(self, data: bytes) -> HeadDigest | None:
        """Return *data* as the memory knows it, None where it is not a head that an answer may be given to at once."""
        if not self._is_at_message_start or self._request_count != self.answered_count or self._paused:
            return None  # an answer is under way, or still on its way to a slow reader
        if self._head_digester is None or self._force_close or self._close or not data.startswith(REPLAYED_METHODS):
            return None
        return self._head_digester.digest_head(data)

    def _try_replay(self, head_digest: HeadDigest) -> bool:
        """Give the answer that the memory has to a *head_digest* head, and return whether it has one."""
        started = time.perf_counter()
        entry = self._replay_cache.find(head_digest) if self._replay_cache is not None else None
        if entry is None or self._replay_cache is None or self.transport is None:
            return False
        request_id = head_digest.request_id or self._replay_cache.generate_request_id()
        self.transport.write(b"%b%b\r\n\r\n%b" % (entry.head, request_id, entry.body))
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        entry.recorder.record(time.perf_counter() - started, request_id)
        return True

    def _parse(self, data: bytes, head_digest: HeadDigest | None) -> None:
        """Let *data* go its whole way; an answer to what is *head_digest* may be remembered if it came alone."""
        replay_cache, is_single = self._replay_cache, is_single_head(data)
        self.pending_head = (
            PendingHead(head_digest, replay_cache.current_epoch())
            if replay_cache is not None and head_digest is not None and is_single
            else None
        )
        count = self._request_count
        super().data_received(data)
        # A head that was alone in `data` and made one message without a body ends where `data` does.
        self._is_at_message_start = is_single and self._request_count == count + 1 and self._is_bodiless
        if not self._is_at_message_start:
            self.pending_head = None

    def record_answered(self) -> None:
        """Count one answer."""
        self.answered_count += 1

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way: none came, or none came whole, since the last answer."""
        return self._waiter is not None and not self._waiter.done()

    @property
    def _is_bodiless(self) -> bool:
        return bool(self._messages) and self._messages[-1][1] is EMPTY_PAYLOAD and not self._upgraded


Handler = Callable[[BaseRequest], Awaitable[web.StreamResponse]]
OnUnreadable = Callable[[int, str], None]

MAX_FIELD_BYTES: Final = 64 * 1024
MAX_TARGET_BYTES: Final = 32 * 1024  # the gateway before IMS takes no longer one either
_POLL_INTERVAL_S: Final = 0.01
_LOG_INTERVAL_S: Final = 60.0


class Connection(ReplayingConnection):
    """One caller's connection.

    *has_lost_bytes* says that bytes may have been lost: the parser drops whatever arrives together with a request for
    an upgrade, which is never made here, or after it.
    """

    def __init__(self, manager: Server, replay_cache: ReplayCache | None, **settings: Any) -> None:
        super().__init__(manager, replay_cache, **settings)
        self.has_lost_bytes = False

    def _parse(self, data: bytes, head_digest: HeadDigest | None) -> None:
        super()._parse(data, head_digest)
        if not self._is_at_message_start:
            self._repair_parser_state()

    def _repair_parser_state(self) -> None:
        """Make up for what the parser leaves behind: bytes that it drops, and a body that it never ends."""
        if not self._messages:
            return
        self.has_lost_bytes = self.has_lost_bytes or any(
            getattr(message, "upgrade", False) for message, _ in self._messages
        )
        if not isinstance(self._messages[-1][0], RawRequestMessage):  # it stopped in the middle of something
            current = self._current_request
            unfinished = self._messages[-2][1] if len(self._messages) > 1 else current and current.content
            if unfinished and not unfinished.is_eof():
                unfinished.set_exception(BrokenBodyError("body: chunks that can't be divided"))

    @property
    def is_last_answer(self) -> bool:
        """Whether the answer that is given now is the last one: bytes were lost, or the server stops."""
        return self.has_lost_bytes or (isinstance(self._manager, Server) and self._manager.is_draining)

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - may quote header bytes
    ) -> web.StreamResponse:
        """Return the answer to what could not be read: aiohttp's own page would quote it."""
        error = _make_unreadable_error(exc)
        if status != 400:
            error = ProxyError("proxy: failed")
            if not isinstance(exc, (ProxyError, ConnectionError)):  # somebody broke off, which was counted as it is
                log_event("request_failed", level=logging.ERROR, error=type(exc).__name__)
        if request.writer.output_size:
            raise ConnectionResetError("caller: has half an answer, which only breaking off can tell")
        # Of a head that could not be read nothing is to be believed, its request id neither.
        request_id = adapter.generate_request_id()
        if status == 400 and isinstance(self._manager, Server):
            self._manager.on_unreadable(error.status, request_id)
        return adapter.write_error(request, error, request_id=request_id)


class Server(web.Server):
    """Makes a `Connection` for each caller, *max_connections* of them at once.

    *on_unreadable* is told the status and the request id of each answer to what could not be read, which no handler
    sees. `load`, where there are several workers, counts the connections.
    """

    def __init__(
        self,
        handler: Handler,
        replay_cache: ReplayCache | None,
        *,
        max_connections: int,
        on_unreadable: OnUnreadable,
        **settings: Any,
    ) -> None:
        super().__init__(handler, handler_cancellation=True, **settings)
        self.replay_cache = replay_cache
        self.on_unreadable = on_unreadable
        self.is_draining = False
        self.worker_load: WorkerLoad | None = None
        self._max_connections = max_connections
        self._limit_logged_at = -_LOG_INTERVAL_S

    def __call__(self) -> RequestHandler:
        """Return the protocol of a new connection."""
        return Connection(self, self.replay_cache, loop=self._loop, **self._kwargs)

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """Take a connection in; where there are too many, the first come of those that are idle makes room."""
        super().connection_made(handler, transport)
        if self.worker_load:
            self.worker_load.record_opened()
        if len(self._connections) <= self._max_connections:
            return
        known = (each for each in self._connections if isinstance(each, Connection))
        next((each for each in known if each.is_idle and each.transport), handler).force_close()
        now = self._loop.time()
        if now - self._limit_logged_at >= _LOG_INTERVAL_S:
            self._limit_logged_at = now
            log_event("connection_limit_reached", level=logging.WARNING, max_connections=self._max_connections)

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        """Note that a connection is closed."""
        if self.worker_load:
            self.worker_load.record_closed()
        super().connection_lost(handler, exc)

    async def drain(self, max_wait_s: float) -> None:
        """Make every answer from now on the last of its connection; return once nobody is connected, or after
        *max_wait_s*.

        A connection without a request under way may have one on its way: it was sent before anyone could know that the
        server stops. It is answered if it comes within that time.

        The time is counted in turns of the event loop, and is longer where the loop lags: a request that arrived during
        a long turn has to be read before its connection is closed.
        """
        self.is_draining = True
        for _ in range(ceil(max_wait_s / _POLL_INTERVAL_S)):
            if not self.connections:
                return
            await asyncio.sleep(_POLL_INTERVAL_S)


def _make_unreadable_error(cause: BaseException | None) -> ProxyError:
    """Return what to tell of a head that could not be read. The parser's own words may quote it."""
    if isinstance(cause, LineTooLong):
        if cause.args[1] == MAX_TARGET_BYTES:
            return TargetTooLongError(f"request target: longer than {MAX_TARGET_BYTES} bytes")
        return FieldsTooLargeError(f"field: longer than {MAX_FIELD_BYTES} bytes")
    if isinstance(cause, BadHttpMessage) and cause.message.startswith("Too many headers"):
        return FieldsTooLargeError("fields: too many")
    return BadRequestError("request: not understood as HTTP/1.1")
