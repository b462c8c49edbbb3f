"""Answers callers: from a request of aiohttp's to the gateway and back, timed and counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

from aiohttp import HttpVersion11, web
from aiohttp.web_request import BaseRequest

from proxy.core.routes import Route, route
from proxy.errors import ProxyError
from proxy.gateway.gateway import Gateway
from proxy.listing.lookup import Repeatable
from proxy.observability.logging import Telemetry
from proxy.server import adapter
from proxy.server.adapter import Written
from proxy.server.connection import FIELD_BYTES, TARGET_BYTES, Connection, Server
from proxy.server.fast_path import HeadMemo

_KEEP_ALIVE_S: Final = 75.0
_GONE: Final = 499  # the caller went away
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


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
        return Server(self.handle, self._memo, most=most, unread=self._unread, **settings)

    async def handle(self, request: BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        started = self._clock()
        known_as = adapter.request_id(request)
        label, cache_status, status = route(request.raw_path.partition("?")[0]).value, "error", 500
        try:
            asked = adapter.received(request, known_as=known_as)
            label = route(asked.path).value  # an absolute target counts as its path
            async with self._gateway.answer(asked, adapter.arrival(request)) as answer:
                cache_status = answer.cache_status.label
                response = await adapter.respond(request, answer, known_as=known_as, last=_last(request))
                if answer.repeatable and isinstance(response, Written):
                    self._remember(request, response, label, answer.repeatable)
            status = response.status
        except ProxyError as error:
            status = error.status
            response = await self._refused(request, error, known_as=known_as)
        except (asyncio.CancelledError, ConnectionError):
            status = _GONE
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

    def _unread(self, status: int, known_as: str) -> None:
        """What could not be read was answered: nobody knows which method or route it was, or when it began."""
        self._telemetry.served(
            method="other",
            route=Route.OTHER.value,
            status=status,
            cache_status="error",
            elapsed_s=0.0,
            request_id=known_as,
        )

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
