"""Asks the upstream for a resource, and reads the answer as far as it may be kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace

from proxy.core.base import Exchange
from proxy.core.messages import Request, Response
from proxy.core.values import immutable
from proxy.errors import UpstreamTimeoutError
from proxy.http.dates import dated
from proxy.resources.request import ResourceAsk
from proxy.upstream.forward import Forwarder


@immutable
class Received:
    """A response, and between which times, epoch seconds, it was fetched; unless it is *whole* its body is missing."""

    response: Response
    request_time: float
    response_time: float
    whole: bool


class Receiver:
    """Asks through *forwarder*. *clock* gives epoch seconds.

    A body longer than *most_bytes* is not read to its end, and one that takes longer than *within_s* is given up.
    """

    def __init__(self, forwarder: Forwarder, *, most_bytes: int, within_s: float, clock: Callable[[], float]) -> None:
        self._forwarder = forwarder
        self._most_bytes = most_bytes
        self._within_s = within_s
        self._clock = clock

    async def received(self, ask: ResourceAsk, asked: Iterable[tuple[str, str]], purpose: str) -> Received:
        """Return what the upstream answers to *ask* on the conditions that were *asked*."""
        request_time = self._clock()
        request = Request("GET", ask.target, ask.fields.plus(*asked), ask.asked.request_id)
        # Who began the fetch is told what comes before the answer, for as long as nothing was sent to it.
        request = replace(request, claimant=ask.claimant.calling_for(purpose), interim=ask.asked.interim)
        if ask.who.signing is not None:
            request = ask.who.signing.signed(request, now=request_time)
        async with self._forwarder.exchange(request, purpose=purpose) as exchange:
            response_time = self._clock()
            body = await self._body(exchange)
        fields = dated(exchange.fields, now=response_time)
        response = Response(exchange.status, fields, body or b"", exchange.reason)
        return Received(response, request_time, response_time, whole=body is not None)

    async def _body(self, exchange: Exchange) -> bytes | None:
        """Return the whole body, None where it is too long to be kept."""
        length = exchange.fields.get("content-length") or "0"
        if length.isascii() and length.isdecimal() and int(length) > self._most_bytes:
            return None
        chunks, size = [], 0
        try:
            async with asyncio.timeout(self._within_s):
                async for chunk in exchange.chunks:
                    chunks.append(chunk)
                    size += len(chunk)
                    if size > self._most_bytes:
                        return None
        except TimeoutError as error:
            raise UpstreamTimeoutError(f"upstream: no whole answer within {self._within_s:g}s") from error
        return b"".join(chunks)
