"""Everything that is not answered from the store: streamed both ways, unaltered but for what a proxy must alter."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

from proxy.core.base import Exchange, Upstream
from proxy.core.messages import Fields, Request, Response
from proxy.http.coding import READABLE
from proxy.observability.logging import Telemetry
from proxy.upstream.hops import onward

_VIA: Final = "1.1 ims-proxy"  # RFC 9110 §7.6.3


class Forwarder:
    """Carries a request to the upstream and the answer back, a chunk at a time."""

    def __init__(self, upstream: Upstream, *, telemetry: Telemetry, clock: Callable[[], float]) -> None:
        self._upstream = upstream
        self._telemetry = telemetry
        self._clock = clock

    @asynccontextmanager
    async def exchange(self, request: Request, *, purpose: str = "forward") -> AsyncIterator[Exchange]:
        """Give the upstream's answer to *request*, its body still to come. *purpose* is what the call is counted as.

        Raises `ProxyError` where there is none.
        """
        with self._telemetry.calling(purpose, clock=self._clock) as call:
            async with self._upstream.exchange(sent(request)) as answer:
                call.status = str(answer.status)
                yield Exchange(answer.status, answer.reason, _returned(answer.fields), answer.chunks)

    async def whole(self, request: Request) -> Response:
        """Return the upstream's answer to *request* once all of it is here, its content coding undone."""
        upward = sent(request)
        fields = upward.fields.without(["accept-encoding", "range"]).plus(("Accept-Encoding", READABLE))
        with self._telemetry.calling("forward", clock=self._clock) as call:
            answer = await self._upstream.fetch(replace(upward, fields=fields))
            call.status = str(answer.status)
        return replace(answer, fields=_returned(answer.fields))


def sent(request: Request) -> Request:
    """Return *request* as it goes upstream: without hop-by-hop fields and the caller's `Host`, its id put in."""
    request = onward(request)
    fields = request.fields.end_to_end().without(["host", "x-request-id"])
    fields = _with_via(fields).plus(("X-Request-Id", request.request_id))
    return replace(request, fields=fields)


def _returned(fields: Fields) -> Fields:
    return _with_via(fields.end_to_end())


def _with_via(fields: Fields) -> Fields:
    return fields.without(["via"]).plus(("Via", ", ".join([*fields.all("via"), _VIA])))
