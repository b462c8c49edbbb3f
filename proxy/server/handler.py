"""Answers callers: from a request of aiohttp's to the gateway and back, timed and counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

from aiohttp import HttpVersion11, web
from aiohttp.web_request import BaseRequest

from proxy.core.replay import ReplayTerms
from proxy.core.routes import Route, classify_path
from proxy.errors import ProxyError
from proxy.gateway.gateway import Gateway
from proxy.observability.logging import Telemetry
from proxy.server import adapter
from proxy.server.adapter import WrittenResponse
from proxy.server.connection import MAX_FIELD_BYTES, MAX_TARGET_BYTES, Connection, Server
from proxy.server.fast_path import ReplayCache

_KEEP_ALIVE_TIMEOUT_S: Final = 75.0
_CLIENT_CLOSED_REQUEST: Final = 499  # the caller went away
_LABELED_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class ClientRequestHandler:
    """Answers callers: translates, times, counts, and nothing more."""

    def __init__(
        self,
        gateway: Gateway,
        telemetry: Telemetry,
        *,
        replay_cache: ReplayCache | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._gateway = gateway
        self._telemetry = telemetry
        self._replay_cache = replay_cache
        self._clock = clock

    def make_server(self, *, max_connections: int) -> Server:
        """Return the server for a listener, which has *max_connections* connections at once."""
        settings: dict[str, Any] = {
            "access_log": None,
            "keepalive_timeout": _KEEP_ALIVE_TIMEOUT_S,
            "max_line_size": MAX_TARGET_BYTES,
            "max_field_size": MAX_FIELD_BYTES,
            "auto_decompress": False,  # a body goes up as it came
        }
        return Server(
            self.handle_request,
            self._replay_cache,
            max_connections=max_connections,
            on_unreadable=self._record_unreadable,
            **settings,
        )

    async def handle_request(self, request: BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        started = self._clock()
        request_id = adapter.choose_request_id(request)
        route_label, cache_status, status = classify_path(request.raw_path.partition("?")[0]).value, "error", 500
        try:
            translated = adapter.to_request(request, request_id=request_id)
            route_label = classify_path(translated.path).value  # an absolute target counts as its path
            async with self._gateway.answer(translated, adapter.to_client_connection(request)) as answer:
                cache_status = answer.cache_status.label
                response = await adapter.send_response(
                    request, answer, request_id=request_id, close_after=_must_close_after(request)
                )
                if answer.replay_terms and isinstance(response, WrittenResponse):
                    self._store_replay(request, response, route_label, answer.replay_terms)
            status = response.status
        except ProxyError as error:
            status = error.status
            response = await self._send_error(request, error, request_id=request_id)
        except (asyncio.CancelledError, ConnectionError):
            status = _CLIENT_CLOSED_REQUEST
            raise
        finally:
            self._telemetry.record_request(
                method=request.method if request.method in _LABELED_METHODS else "other",
                route=route_label,
                status=status,
                cache_status=cache_status,
                elapsed_s=self._clock() - started,
                request_id=request_id,
            )
        if response.keep_alive and isinstance(request.protocol, Connection):
            request.protocol.record_answered()
        elif adapter.withholds_body(request):
            request.protocol.force_close()  # aiohttp would wait for a body that never comes
        return response

    def _record_unreadable(self, status: int, request_id: str) -> None:
        """What could not be read was answered: nobody knows which method or route it was, or when it began."""
        self._telemetry.record_request(
            method="other",
            route=Route.OTHER.value,
            status=status,
            cache_status="error",
            elapsed_s=0.0,
            request_id=request_id,
        )

    def _store_replay(
        self, request: BaseRequest, response: WrittenResponse, route_label: str, terms: ReplayTerms
    ) -> None:
        """Remember what was *response*, if *request* may be told from the bytes that it came in."""
        connection = request.protocol
        if self._replay_cache is None or not isinstance(connection, Connection) or connection.pending_head is None:
            return
        if request.version != HttpVersion11 or not response.keep_alive:
            return  # the next such request comes on another connection
        recorder = self._telemetry.request_recorder(
            method=request.method, route=route_label, status=response.status, cache_status="hit"
        )
        head_digest, epoch = connection.pending_head
        self._replay_cache.put(
            head_digest, terms, epoch=epoch, head=response.head, body=response.body, recorder=recorder
        )

    async def _send_error(self, request: BaseRequest, error: ProxyError, *, request_id: str) -> web.StreamResponse:
        if request.writer.output_size:
            # The head is out already: only breaking off tells the caller that the rest is missing.
            if request.transport is not None:
                request.transport.abort()
            raise error
        return await adapter.send_error(
            request, error, request_id=request_id, close_after=_must_close_after(request) or error.closes_connection
        )


def _must_close_after(request: BaseRequest) -> bool:
    """Whether nothing may be read from a connection behind *request*.

    The last trailer of a body in chunks is taken by aiohttp's parser for a field of the next request: were that another
    caller's, who shares a connection with this one further down, it would carry what this caller wrote.
    """
    connection = request.protocol
    is_ending = isinstance(connection, Connection) and connection.is_last_answer
    return is_ending or "Transfer-Encoding" in request.headers or adapter.withholds_body(request)
