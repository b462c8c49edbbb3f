"""The upstream's client: the only `ClientSession`, and the only place where aiohttp's errors become ours.

Errors name no address and no byte of what was sent.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Final

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.connector import Connection
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_writer import StreamWriter
from aiohttp.payload import BytesPayload
from yarl import URL

from proxy.core.messages import Fields, Request, Response, StreamedResponse
from proxy.core.tls_verification import explain_verification_error
from proxy.errors import (
    BrokenBodyError,
    ConnectTimeoutError,
    NoConnectionError,
    UpstreamTimeoutError,
    UpstreamUnreachableError,
)
from proxy.http.negotiation import CodingError, decode
from proxy.http.validation import MAX_LENGTH_DIGITS, serialize_head
from proxy.observability.event_loop import run_in_thread
from proxy.upstream.connector import Connector, InterimResponses, received_fields


def explain_connect_error(
    error: aiohttp.ClientConnectorError, *, remedy: str = "set upstream.tls_strict = false"
) -> str:
    """Return why *error* kept us from connecting; what it says itself may name an address.

    *remedy* is what to do to accept certificates that lack what RFC 5280 requires.
    """
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return explain_verification_error(error.certificate_error, remedy=remedy)
        case aiohttp.ClientConnectorSSLError():  # whose number is one of TLS, not of the system
            return f"no TLS connection, {getattr(error.os_error, 'reason', None) or 'failed'}"
        case _:
            return f"no connection, {_explain_errno(error.os_error)}"


def explain_response_error(error: Exception) -> str:
    """Return why *error* kept us from an answer on a connection that stood."""
    match error:
        case aiohttp.ServerDisconnectedError():
            return "closed the connection before it answered"
        case aiohttp.ClientPayloadError():
            return "broke off in the middle of its answer"
        case HttpProcessingError() | aiohttp.ClientResponseError():
            return "answered what is not understood as HTTP/1.1"
        case OSError(errno=int(number)):
            return f"the connection broke, {os.strerror(number)}"
        case _:
            return f"the connection broke, {type(error).__name__}"


def _explain_errno(error: OSError) -> str:
    if isinstance(error, socket.gaierror):  # whose numbers are the resolver's, and its words too
        return error.strerror or "the name is not known"
    return os.strerror(error.errno) if error.errno else "broken off before it stood"


FIELD_BYTES: Final = 64 * 1024
CONTINUE_S: Final = 1.0  # the wait for a 100 before a body is sent all the same
_READ_BYTES: Final = 256 * 1024
_DECODE_OFF_LOOP_BYTES: Final = 16 * 1024  # coded; lists shrink to a tenth
# aiohttp adds these to what the caller sent unless told not to.
_SKIPPED_HEADERS: Final = ("Accept", "Accept-Encoding", "User-Agent", "Content-Type")


class _Request(aiohttp.ClientRequest):
    """A request that goes up as it is, and some time even to an upstream that never says 100 (RFC 9110 §10.1.1)."""

    def update_expect_continue(self, expect: bool = False) -> None:
        """Wait for a 100, but not for ever; aiohttp would, and its time limits begin behind the body."""
        super().update_expect_continue(expect)
        if self._continue is not None:
            self.loop.call_later(CONTINUE_S, _set_unless_done, self._continue)

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        """Send the request, its head with the body: one that aiohttp alters is set right before either goes."""
        if self._body is None and not _is_written_as_is(self.headers):
            self._body = BytesPayload(b"")
        return await super().send(conn)

    async def write_bytes(
        self, writer: AbstractStreamWriter, conn: Connection, content_length: int | None = None
    ) -> None:
        """Send head and body. What is not UTF-8 in a field aiohttp leaves out, and is for nobody here to judge."""
        if isinstance(writer, StreamWriter) and not _is_written_as_is(self.headers):
            first, _, _ = (writer._headers_buf or b"").partition(b"\r\n")
            lines = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
            writer._headers_buf = b"%b\r\n%b\r\n" % (first, lines.encode("utf-8", "surrogateescape"))
        await super().write_bytes(writer, conn, content_length)


def _is_written_as_is(fields: Mapping[str, str]) -> bool:
    """Whether every value in *fields* is text; what is not UTF-8 stands in them as surrogates."""
    return all(value.isascii() or value.isprintable() for value in fields.values())


def _set_unless_done(waiter: asyncio.Future[bool]) -> None:
    if not waiter.done():
        waiter.set_result(True)


class UpstreamClient:
    """Calls one origin; *origin* is scheme and authority, without a path.

    *tls* gives the context of a connection that is made now.
    *fetch_bytes* bounds a body that is read whole, *connect_s* and *read_s* every wait for the network.
    """

    def __init__(
        self,
        origin: str,
        *,
        connect_s: float,
        read_s: float,
        max_connections: int,
        tls: Callable[[], ssl.SSLContext] | None = None,
        fetch_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        self._origin = origin
        self._tls = tls
        self._host = URL(origin).host or origin
        self._connect_s, self._read_s = connect_s, read_s
        self._fetch_bytes = fetch_bytes
        connector = Connector(limit=max_connections, keepalive_timeout=20)
        # `connect` bounds the wait for a free connection, which may take as long as another answer does.
        timeout = aiohttp.ClientTimeout(
            total=None, connect=connect_s + read_s, sock_connect=connect_s, sock_read=read_s
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=_SKIPPED_HEADERS,
            max_line_size=FIELD_BYTES,
            max_field_size=FIELD_BYTES,
            read_bufsize=_READ_BYTES,
            request_class=_Request,
        )

        # aiohttp sends a PUT or DELETE again on its own when a connection breaks, though the first may have arrived.
        # Whether to try again is decided by the limiter, which counts it too.
        self._session._retry_connection = False

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()

    async def fetch(self, request: Request) -> Response:
        """See `Upstream.fetch`. The whole of it takes no longer than two reads that time out."""
        try:
            async with asyncio.timeout(self._connect_s + 2 * self._read_s):
                answer = await self._fetch_raw(request)
        except TimeoutError as error:
            raise UpstreamTimeoutError(
                f"{self._host}: no whole answer within {self._connect_s + 2 * self._read_s:g}s"
            ) from error
        coding = answer.fields.get("content-encoding")
        if coding is None:
            return answer
        try:
            decoding = partial(decode, answer.body, coding.lower(), max_bytes=self._fetch_bytes)
            plain = decoding() if len(answer.body) < _DECODE_OFF_LOOP_BYTES else await run_in_thread(decoding)
        except CodingError as error:
            raise UpstreamUnreachableError(f"{self._host}: {error}") from error
        if plain is None:
            return answer
        fields = answer.fields.without(["content-encoding", "content-length"])
        return Response(answer.status, fields, plain, answer.reason)

    async def _fetch_raw(self, request: Request) -> Response:
        """Return the whole answer as it came."""
        with self._translate_errors():
            async with await self._send(request) as answer:
                fields = self._check_fields(answer.status, answer.raw_headers)
                body = await self._read_body(answer.content)
                return Response(answer.status, fields, body, answer.reason)

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[StreamedResponse]:
        """See `Upstream.stream`."""
        with self._translate_errors():
            async with await self._send(request) as answer:
                fields = self._check_fields(answer.status, answer.raw_headers)
                yield StreamedResponse(answer.status, answer.reason, fields, self._iter_chunks(answer))

    async def _send(self, request: Request) -> aiohttp.ClientResponse:
        """Send *request* and return the head of the answer; the caller releases it, and so the connection.

        Raises `ValueError` as `serialize_head` does.
        """
        serialize_head(
            [f"{request.method} {request.target}", *(f"{name}: {value}" for name, value in request.fields.lines)]
        )
        with InterimResponses(request.on_interim):
            return await self._session.request(
                request.method,
                URL(self._origin + request.target, encoded=True),
                headers=request.fields.lines,
                data=request.body,
                allow_redirects=False,
                ssl=self._ssl_context,
            )

    @property
    def _ssl_context(self) -> ssl.SSLContext | bool:
        return self._tls() if self._tls else True

    def _check_fields(self, status: int, lines: tuple[tuple[bytes, bytes], ...]) -> Fields:
        if status < 200:
            raise UpstreamUnreachableError(f"{self._host}: {status}, which nobody asked for")
        fields = received_fields(lines)
        if any(len(length) > MAX_LENGTH_DIGITS for length in fields.get_all("content-length")):
            raise UpstreamUnreachableError(f"{self._host}: a length of too many digits")
        return fields

    async def _iter_chunks(self, answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        with self._translate_errors():
            async for chunk in answer.content.iter_any():
                yield chunk

    async def _read_body(self, content: aiohttp.StreamReader) -> bytes:
        chunks, size = [], 0
        while chunk := await content.readany():
            chunks.append(chunk)
            size += len(chunk)
            if size > self._fetch_bytes:
                raise UpstreamUnreachableError(f"{self._host}: answer longer than {self._fetch_bytes} bytes")
        return b"".join(chunks)

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Make aiohttp's errors ours. Their texts stay out: they may quote header bytes."""
        try:
            yield
        except aiohttp.ConnectionTimeoutError as error:
            raise ConnectTimeoutError(f"{self._host}: no connection within {self._connect_s:g}s") from error
        except aiohttp.ServerTimeoutError as error:
            raise UpstreamTimeoutError(f"{self._host}: no response within {self._read_s:g}s") from error
        except aiohttp.ClientConnectorError as error:
            raise NoConnectionError(f"{self._host}: {explain_connect_error(error)}") from error
        except (aiohttp.ClientError, HttpProcessingError, ConnectionError) as error:
            if isinstance(error.__cause__, BrokenBodyError):
                raise error.__cause__ from None  # what aiohttp wraps it in tells of the upstream's connection
            raise UpstreamUnreachableError(f"{self._host}: {explain_response_error(error)}") from error
