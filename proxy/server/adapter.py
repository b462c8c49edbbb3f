"""Converts aiohttp's requests and responses to ours and back: the only file that knows both.

Everything is taken from the raw request: aiohttp's `path` and `query_string` are decoded, its `host` believes an
absolute target.

A finished answer is written as one piece, head and body, without aiohttp's own response.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from email.utils import formatdate
from functools import lru_cache, partial
from http import HTTPStatus
from typing import Final

from aiohttp import HttpVersion, HttpVersion10, HttpVersion11, web

from proxy.core.messages import Fields, Request, Response
from proxy.errors import BadRequestError, BrokenBodyError, NotImplementedByProxyError, ProxyError
from proxy.gateway.gateway import ClientConnection, GatewayResponse
from proxy.http.negotiation import render_error
from proxy.http.validation import MalformedRequest, find_malformation, is_host, serialize_head, to_origin_form

BODILESS_STATUSES: Final = frozenset({204, 304})
_OWN_FIELDS: Final = frozenset({"cache-status", "x-request-id", "content-length", "connection"})


class WrittenResponse(web.StreamResponse):
    """An answer that has been written: its *head*, as far as the request id, and its *body*."""

    def __init__(self, status: int, keep_alive: bool, head: bytes, body: bytes) -> None:
        super().__init__(status=status)
        self._keep_alive = keep_alive
        self.head = head
        self.body = body

    async def prepare(self, request: web.BaseRequest) -> None:
        """Do nothing: it is done."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: it is done."""


def render_head(response: Response, *, version: HttpVersion, keep_alive: bool, cache_status: str, now: float) -> bytes:
    """Return the head of *response*, given at *now*, as far as the value of `X-Request-Id`, which stands last.

    Raises `ValueError` as `written` does.
    """
    lines = [
        f"HTTP/{version.major}.{version.minor} {response.status} {response.reason or reason_phrase(response.status)}"
    ]
    has_date = False
    for name, value in response.fields:
        folded = name.lower()
        if folded not in _OWN_FIELDS:
            has_date = has_date or folded == "date"
            lines.append(f"{name}: {value}")
    if not has_date:
        lines.append(f"Date: {format_http_date(int(now))}")
    if response.status not in BODILESS_STATUSES:
        lines.append(f"Content-Length: {len(response.body)}")
    if not keep_alive:
        lines.append("Connection: close")
    elif version < HttpVersion11:
        lines.append("Connection: keep-alive")
    lines.append(f"Cache-Status: {cache_status}")
    lines.append("X-Request-Id: ")
    return serialize_head(lines)


def render_streamed_head(status_line: str, fields: Iterable[tuple[str, str]]) -> bytes:
    """Return a head as it is sent, from its *status_line* line to the empty one.

    Raises `ValueError` as `written` does.
    """
    return serialize_head([status_line, *(f"{name}: {value}" for name, value in fields), "", ""])


@lru_cache(maxsize=64)
def reason_phrase(status: int) -> str:
    """Return the reason phrase of *status*, "" for one that has none."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


@lru_cache(maxsize=4)
def format_http_date(epoch_s: int) -> str:
    """Return *epoch_s* of the epoch as `Date` has it (RFC 9110 §5.6.7)."""
    return formatdate(epoch_s, usegmt=True)


_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)
_UNSUPPORTED_METHODS: Final = frozenset({"CONNECT", "TRACE"})
_CONTINUE_SENT: Final = web.RequestKey("continued", bool)  # whether the caller was asked for its body
STALL_TIMEOUT_S: Final = 60.0  # the longest that a caller may neither send nor take anything in the middle of a body
_MAX_JOINED_BYTES: Final = 64 * 1024  # copying as much costs less than a second buffer to the kernel


def choose_request_id(request: web.BaseRequest) -> str:
    """Return the caller's `X-Request-Id` if it is sane, else a new one."""
    theirs = request.headers.getall("X-Request-Id", [])
    return theirs[0] if len(theirs) == 1 and _REQUEST_ID.fullmatch(theirs[0]) else generate_request_id()


def generate_request_id() -> str:
    """Return an id that no request had."""
    return secrets.token_hex(16)


def to_request(request: web.BaseRequest, *, request_id: str) -> Request:
    """Return *request* as ours.

    Raises `BadRequestError` for one that two servers could take differently, `NotImplementedByProxyError` for CONNECT,
    TRACE and codings that nobody here undoes.
    """
    if request.method in _UNSUPPORTED_METHODS:
        raise NotImplementedByProxyError(f"method {request.method}: not carried on by this proxy")
    fields = _to_fields(request)
    hosts, codings = fields.get_all("host"), fields.get_all("transfer-encoding")
    lengths = fields.get_all("content-length")
    fault = find_malformation(version=request.version, hosts=hosts, codings=codings, lengths=lengths)
    target = fault or to_origin_form(request.method, request.raw_path, hosts[0] if hosts else None)
    if isinstance(target, MalformedRequest):
        raise (NotImplementedByProxyError if target.status == 501 else BadRequestError)(target.message)
    if fields.get("expect") is not None and not _expects_continue(request):
        fields = fields.without(["expect"])
    body = _read_body(request) if request.body_exists else None
    interim = partial(_send_interim, request) if request.version >= HttpVersion11 else None
    return Request(request.method, target, fields, request_id, body, on_interim=interim)


def _send_interim(request: web.BaseRequest, status: int, fields: Fields) -> None:
    """Send an interim answer, which HTTP/1.0 knows nothing of (RFC 9110 §15.2)."""
    if request.transport is not None and not request.writer.output_size:
        request.transport.write(render_streamed_head(f"HTTP/1.1 {status} {reason_phrase(status)}", fields))


def _expects_continue(request: web.BaseRequest) -> bool:
    """Whether the caller keeps its body until it is asked for (RFC 9110 §10.1.1), which none of HTTP/1.0 does."""
    expectations = (
        request.headers.getall("Expect", []) if request.body_exists and request.version >= HttpVersion11 else []
    )
    return [value.lower() for value in expectations] == ["100-continue"]


def withholds_body(request: web.BaseRequest) -> bool:
    """Whether the caller was never asked for its body, and has sent nothing of it."""
    return _expects_continue(request) and _CONTINUE_SENT not in request and not request.content.total_bytes


def _to_fields(request: web.BaseRequest) -> Fields:
    return Fields(
        [(name.decode("latin-1"), value.decode("utf-8", "surrogateescape")) for name, value in request.raw_headers]
    )


def to_client_connection(request: web.BaseRequest) -> ClientConnection:
    """Return where *request* came from; its origin is told only to itself and never stored."""
    host = request.headers.get("Host", "")
    connection = request.protocol  # which looks both up once
    scheme, peer = "https" if connection.ssl_context else "http", connection.peername
    address = peer[0] if isinstance(peer, tuple) else None
    return ClientConnection(address, f"{scheme}://{host}" if is_host(host) else "")


async def _read_body(request: web.BaseRequest) -> AsyncIterator[bytes]:
    if _expects_continue(request) and request.transport and not request.writer.output_size:
        request[_CONTINUE_SENT] = True
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    while True:
        try:
            async with _limit_stall(request):
                chunk = await request.content.readany()
        except ConnectionResetError as error:
            raise BrokenBodyError("body: not sent to its end") from error
        if not chunk:
            return
        yield chunk


@asynccontextmanager
async def _limit_stall(request: web.BaseRequest) -> AsyncIterator[None]:
    """Hang up on a caller that neither sends nor takes anything for long: it may hold a connection to the upstream."""
    try:
        async with asyncio.timeout(STALL_TIMEOUT_S):
            yield
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError(f"caller: nothing moved for {STALL_TIMEOUT_S:g}s") from None


async def send_response(
    request: web.BaseRequest, answer: GatewayResponse, *, request_id: str, close_after: bool
) -> web.StreamResponse:
    """Send *answer* and return what was sent; with the *close_after* one the connection ends."""
    cache_status = str(answer.cache_status)
    if answer.response is not None:
        return await _send_complete_response(
            request, answer.response, cache_status=cache_status, request_id=request_id, close_after=close_after
        )
    assert answer.streamed is not None
    streamed = answer.streamed
    own = (("Cache-Status", cache_status), ("X-Request-Id", request_id))
    response = _make_stream_response(streamed.status, streamed.reason, streamed.fields, own)
    length = streamed.fields.get("content-length")
    if length is not None:
        response.headers["Content-Length"] = length
    if close_after:
        response.force_close()
    await response.prepare(request)
    async for chunk in streamed.chunks:
        async with _limit_stall(request):
            await response.write(chunk)
    async with _limit_stall(request):
        await response.write_eof()
    return response


def _make_error_response(request: web.BaseRequest, error: ProxyError, *, request_id: str) -> Response:
    """Return the answer that tells *error* to who sent *request*."""
    kind, body = render_error(error.code, error.message, request_id=request_id, request_fields=_to_fields(request))
    lines = [("Content-Type", kind), ("Cache-Control", "no-store")]
    if error.status == 401:
        lines.append(("WWW-Authenticate", "Bearer"))  # RFC 9110 §11.6.1
    if error.retry_after_s is not None:
        lines.append(("Retry-After", str(max(1, round(error.retry_after_s)))))
    return Response(error.status, Fields(lines), body)


async def send_error(
    request: web.BaseRequest, error: ProxyError, *, request_id: str, close_after: bool
) -> web.StreamResponse:
    """Send the answer that tells *error*; with the *close_after* one the connection ends."""
    sent = write_error(request, error, request_id=request_id, close_after=close_after)
    await _drain(request)
    return sent


def write_error(
    request: web.BaseRequest, error: ProxyError, *, request_id: str, close_after: bool = True
) -> WrittenResponse:
    """Send the answer that tells *error*, and don't wait for a slow reader."""
    answer = _make_error_response(request, error, request_id=request_id)
    status = "ims-proxy; fwd=bypass; detail=error"
    return _write_response(request, answer, cache_status=status, request_id=request_id, close_after=close_after)


async def _send_complete_response(
    request: web.BaseRequest, response: Response, *, cache_status: str, request_id: str, close_after: bool
) -> WrittenResponse:
    sent = _write_response(request, response, cache_status=cache_status, request_id=request_id, close_after=close_after)
    await _drain(request)
    return sent


def _write_response(
    request: web.BaseRequest, response: Response, *, cache_status: str, request_id: str, close_after: bool
) -> WrittenResponse:
    """Write *response* at once; aiohttp has nothing left to do but to wait for a slow reader."""
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("caller: gone before the answer")
    keep_alive = bool(request.keep_alive) and not close_after
    version = max(request.version, HttpVersion10)  # what came before has no head in which to say so
    head = render_head(response, version=version, keep_alive=keep_alive, cache_status=cache_status, now=time.time())
    body = b"" if request.method == "HEAD" or response.status in BODILESS_STATUSES else response.body
    end = request_id.encode() + b"\r\n\r\n"
    request.writer.output_size += len(head) + len(end) + len(body)
    if len(body) < _MAX_JOINED_BYTES:
        transport.write(b"".join((head, end, body)))
    else:
        transport.writelines((head + end, body))
    return WrittenResponse(response.status, keep_alive, head, body)


async def _drain(request: web.BaseRequest) -> None:
    """Return once what was written is taken, but for what fits into a buffer."""
    if request.transport is not None and request.transport.get_write_buffer_size():
        async with _limit_stall(request):
            await request.writer.drain()


def _make_stream_response(
    status: int, reason: str | None, fields: Fields, own_fields: tuple[tuple[str, str], ...]
) -> web.StreamResponse:
    response = _UpstreamResponse(status=status, reason=reason or reason_phrase(status))
    replaced = {name.lower() for name, _ in own_fields} | {"content-length"}
    for name, value in fields:
        if name.lower() not in replaced:
            response.headers.add(name, value)
    for name, value in own_fields:
        response.headers[name] = value
    return response


class _UpstreamResponse(web.StreamResponse):
    """A response without aiohttp's own ideas: no `Server`, no `Content-Type` that the upstream did not send."""

    async def _prepare_headers(self) -> None:
        original_names = set(self.headers)
        await super()._prepare_headers()
        if "Content-Type" not in original_names:
            self.headers.pop("Content-Type", None)
        if "Server" not in original_names:
            self.headers.pop("Server", None)
        if "Date" not in self.headers:
            self.headers["Date"] = formatdate(usegmt=True)

    async def _write_headers(self) -> None:
        """Write the head as it is: aiohttp would leave out bytes that are not UTF-8, but a field may hold them."""
        request = self._req
        assert request is not None
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("caller: gone before the answer")
        version = request.version
        first = f"HTTP/{version.major}.{version.minor} {self.status} {self.reason}"
        head = render_streamed_head(first, self.headers.items())
        request.writer.output_size += len(head)
        transport.write(head)
