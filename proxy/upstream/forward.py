"""Forwards everything that is not answered from the cache, streamed both ways and altered only as a proxy must.

`Max-Forwards` of an OPTIONS request is counted down, and answered here at 0 (RFC 9110 §7.6.2).
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

from proxy.core.messages import Fields, Request, Response, StreamedResponse, Upstream
from proxy.http.negotiation import ACCEPTED_CODINGS
from proxy.http.validation import ASTERISK_FORM
from proxy.observability.logging import Telemetry

_HOPS: Final = re.compile(r"[0-9]{1,9}", re.ASCII)
_METHODS: Final = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"


def answers_locally(request: Request) -> bool:
    """Whether *request* asks for the options of this server, or may go no further."""
    return request.method == "OPTIONS" and (request.target == ASTERISK_FORM or _max_forwards(request) == 0)


def answer_options() -> Response:
    """Return what may be asked of this server. What a path allows is the upstream's to say."""
    return Response(200, Fields([("Allow", _METHODS)]))


def to_upstream_request(request: Request) -> Request:
    """Return *request* with one hop less, if it counts them."""
    hops = _max_forwards(request) if request.method == "OPTIONS" else None
    if hops is None:
        return request
    fields = request.fields.without(["max-forwards"]).plus(("Max-Forwards", str(max(0, hops - 1))))
    return replace(request, fields=fields)


def _max_forwards(request: Request) -> int | None:
    """Return the value of `Max-Forwards`, None where it has none or makes no sense."""
    told = request.fields.get_all("max-forwards")
    return int(told[0]) if len(told) == 1 and _HOPS.fullmatch(told[0]) else None


_VIA: Final = "1.1 ims-proxy"  # RFC 9110 §7.6.3


class Forwarder:
    """Carries a request to the upstream and the answer back, a chunk at a time."""

    def __init__(self, upstream: Upstream, *, telemetry: Telemetry, clock: Callable[[], float]) -> None:
        self._upstream = upstream
        self._telemetry = telemetry
        self._clock = clock

    @asynccontextmanager
    async def stream(self, request: Request, *, purpose: str = "forward") -> AsyncIterator[StreamedResponse]:
        """Give the upstream's answer to *request*, its body still to come. *purpose* is what the call is counted as.

        Raises `ProxyError` where there is none.
        """
        with self._telemetry.track_call(purpose, clock=self._clock) as call:
            async with self._upstream.stream(as_sent(request)) as answer:
                call.status = str(answer.status)
                yield StreamedResponse(answer.status, answer.reason, _to_client_fields(answer.fields), answer.chunks)

    async def fetch(self, request: Request) -> Response:
        """Return the upstream's answer to *request* once all of it is here, its content coding undone."""
        upward = as_sent(request)
        fields = upward.fields.without(["accept-encoding", "range"]).plus(("Accept-Encoding", ACCEPTED_CODINGS))
        with self._telemetry.track_call("forward", clock=self._clock) as call:
            answer = await self._upstream.fetch(replace(upward, fields=fields))
            call.status = str(answer.status)
        return replace(answer, fields=_to_client_fields(answer.fields))


def as_sent(request: Request) -> Request:
    """Return *request* as it goes upstream: without hop-by-hop fields and the caller's `Host`, its id put in."""
    request = to_upstream_request(request)
    fields = request.fields.end_to_end().without(["host", "x-request-id"])
    fields = _with_via(fields).plus(("X-Request-Id", request.request_id))
    return replace(request, fields=fields)


def _to_client_fields(fields: Fields) -> Fields:
    return _with_via(fields.end_to_end())


def _with_via(fields: Fields) -> Fields:
    return fields.without(["via"]).plus(("Via", ", ".join([*fields.get_all("via"), _VIA])))
