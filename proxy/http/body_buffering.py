"""Bodies that have to be read before they are sent, or sent twice: only small ones are, the others are streamed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Final

from proxy.core.messages import Exchange, Request

SMALL_BYTES: Final = 64 * 1024


class ReplayableBody:
    """A body that can be read any number of times."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._once()

    async def _once(self) -> AsyncIterator[bytes]:
        yield self._body


async def replayable(request: Request) -> tuple[Request, bool]:
    """Return *request*, and whether it can be sent again, for which a body that is stated to be small is read.

    A body that the sender holds back until it is asked for (RFC 9110 §10.1.1) is not read here.
    """
    if request.body is None:
        return request, True
    if request.fields.get("expect") is not None:
        return request, False
    length = request.fields.get("content-length") or ""
    if not length.isascii() or not length.isdecimal() or int(length) > SMALL_BYTES:
        return request, False
    body = b"".join([chunk async for chunk in request.body])
    return replace(request, body=ReplayableBody(body)), True


async def whole_if_small(request: Request) -> tuple[bytes | None, Request]:
    """Return the body of *request*, None where it is not small, and a request that gives it again."""
    chunks: list[bytes] = []
    size = 0
    if request.body is not None:
        rest = aiter(request.body)
        async for chunk in rest:
            chunks.append(chunk)
            size += len(chunk)
            if size > SMALL_BYTES:
                return None, replace(request, body=_chained(chunks, rest))
    body = b"".join(chunks)
    return body, replace(request, body=ReplayableBody(body))


async def beginning(exchange: Exchange) -> tuple[bytes, Exchange]:
    """Return the first bytes of *exchange*, as many as are small, and an exchange that gives them again."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in exchange.chunks:
        chunks.append(chunk)
        size += len(chunk)
        if size >= SMALL_BYTES:
            break
    return b"".join(chunks), replace(exchange, chunks=_chained(chunks, exchange.chunks))


async def _chained(chunks: list[bytes], rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
    async for chunk in rest:
        yield chunk
