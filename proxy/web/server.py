"""The connections that callers open: limits on what they may send, and no page of aiohttp's own."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest

from proxy.core.routes import route
from proxy.errors import BadRequestError, ProxyError
from proxy.gateway.gateway import Gateway
from proxy.telemetry import Telemetry, event
from proxy.web import adapter

FIELD_BYTES: Final = 64 * 1024
_KEEP_ALIVE_S: Final = 75.0


class Connection(RequestHandler):
    """One caller's connection."""

    def handle_error(
        self,
        request: BaseRequest,  # noqa: ARG002 - what could not be read has no fields to believe
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - may quote header bytes
    ) -> web.StreamResponse:
        """Return the answer to what could not be read: aiohttp's own page would quote it."""
        error: ProxyError = BadRequestError("request: not understood as HTTP/1.1")
        if status != 400:
            error = ProxyError("proxy: failed")
            event("failed", level=logging.ERROR, error=type(exc).__name__)
        known_as = adapter.new_request_id()  # of a head that could not be read nothing is to be believed
        told = adapter.refusal(error, known_as=known_as)
        response = web.Response(
            status=told.status,
            reason=HTTPStatus(told.status).phrase,
            body=told.body,
            headers={
                **dict(told.fields),
                "X-Request-Id": known_as,
                "Cache-Status": "ims-proxy; fwd=bypass; detail=error",
            },
        )
        response.force_close()
        return response


class Server(web.Server):
    """Makes a `Connection` for each caller."""

    def __call__(self) -> RequestHandler:
        """Return the protocol of a new connection."""
        return Connection(self, loop=self._loop, **self._kwargs)


class Front:
    """Answers callers: translates, times, counts, and nothing more."""

    def __init__(
        self, gateway: Gateway, telemetry: Telemetry, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._gateway = gateway
        self._telemetry = telemetry
        self._clock = clock

    def server(self) -> Server:
        """Return the server for a listener."""
        settings: dict[str, Any] = {
            "access_log": None,
            "keepalive_timeout": _KEEP_ALIVE_S,
            "max_line_size": FIELD_BYTES,
            "max_field_size": FIELD_BYTES,
            "auto_decompress": False,  # a body goes up as it came
        }
        return Server(self.handle, handler_cancellation=True, **settings)

    async def handle(self, request: BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        started = self._clock()
        known_as = adapter.request_id(request)
        label, cache_status, status = route(request.raw_path.partition("?")[0]).value, "error", 500
        try:
            asked = adapter.received(request, known_as=known_as)
            async with self._gateway.answer(asked, adapter.caller(request)) as answer:
                cache_status = answer.cache_status.label
                response = await adapter.respond(request, answer, known_as=known_as)
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
        return response

    async def _refused(self, request: BaseRequest, error: ProxyError, *, known_as: str) -> web.StreamResponse:
        if request.writer.output_size:
            # The head is out already: only breaking off tells the caller that the rest is missing.
            if request.transport is not None:
                request.transport.abort()
            raise error
        return await adapter.refuse(request, error, known_as=known_as)


_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
