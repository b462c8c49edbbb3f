"""Bodies that have to be read before they are sent, or sent twice: only small ones are, the others are streamed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Final

from proxy.core.messages import Request, StreamedResponse

MAX_BUFFERED_BYTES: Final = 64 * 1024


class ReplayableBody:
    """A body that can be read any number of times."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._read_once()

    async def _read_once(self) -> AsyncIterator[bytes]:
        yield self._body


async def make_replayable(request: Request) -> tuple[Request, bool]:
    """Return *request*, and whether it can be sent again, for which a body that is stated to be small is read.

    A body that the sender holds back until it is asked for (RFC 9110 §10.1.1) is not read here.
    """
    if request.body is None:
        return request, True
    if request.fields.get("expect") is not None:
        return request, False
    length = request.fields.get("content-length") or ""
    if not length.isascii() or not length.isdecimal() or int(length) > MAX_BUFFERED_BYTES:
        return request, False
    body = b"".join([chunk async for chunk in request.body])
    return replace(request, body=ReplayableBody(body)), True


async def buffer_small_body(request: Request) -> tuple[bytes | None, Request]:
    """Return the body of *request*, None where it is not small, and a request that gives it again."""
    chunks: list[bytes] = []
    size = 0
    if request.body is not None:
        rest = aiter(request.body)
        async for chunk in rest:
            chunks.append(chunk)
            size += len(chunk)
            if size > MAX_BUFFERED_BYTES:
                return None, replace(request, body=_chain(chunks, rest))
    body = b"".join(chunks)
    return body, replace(request, body=ReplayableBody(body))


async def buffer_beginning(streamed: StreamedResponse) -> tuple[bytes, StreamedResponse]:
    """Return the first bytes of *streamed*, as many as are small, and an exchange that gives them again."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in streamed.chunks:
        chunks.append(chunk)
        size += len(chunk)
        if size >= MAX_BUFFERED_BYTES:
            break
    return b"".join(chunks), replace(streamed, chunks=_chain(chunks, streamed.chunks))


async def _chain(chunks: list[bytes], rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
    async for chunk in rest:
        yield chunk
