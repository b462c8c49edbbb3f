"""GET without a body, as it is asked for a whole answer: what a caller waits for on a miss.

aiohttp's session does for each request what nobody here wants: it looks for redirects, cookies, credentials, proxies
and a second try, and took a tenth of a miss's time for that. The connections, their pool, TLS, the parser and the
limits on time are aiohttp's here too; only the head is written without it.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Final

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http_parser import RawResponseMessage
from aiohttp.streams import StreamReader
from yarl import URL

from proxy.core.messages import Request
from proxy.http.validation import written

_SWITCHING: Final = 101  # is final: what comes behind it is no HTTP


class PlainRequests:
    """Asks the origin, or what stands below it, at *base*, on connections of *connector*.

    *timeout* bounds every wait; heads have lines of *line_bytes* at most.
    """

    def __init__(
        self,
        base: URL,
        connector: aiohttp.BaseConnector,
        timeout: aiohttp.ClientTimeout,
        *,
        line_bytes: int,
        read_bytes: int,
    ) -> None:
        self._base = base
        self._path = base.raw_path.rstrip("/")
        self._host = base.host_port_subcomponent or ""
        self._connector = connector
        self._timeout = timeout
        self._line_bytes = line_bytes
        self._read_bytes = read_bytes
        self._asked: tuple[ssl.SSLContext | bool, aiohttp.ClientRequest] | None = None

    async def connected(self, context: ssl.SSLContext | bool) -> Connection:
        """Return a connection that nobody else uses; one by TLS was made with *context*."""
        if self._asked is None or self._asked[0] is not context:
            loop = asyncio.get_running_loop()
            self._asked = context, aiohttp.ClientRequest("GET", self._base, ssl=context, loop=loop)
        try:
            return await self._connector.connect(self._asked[1], traces=[], timeout=self._timeout)
        except TimeoutError as error:
            raise aiohttp.ConnectionTimeoutError from error

    async def sent(self, request: Request, connection: Connection) -> tuple[RawResponseMessage, StreamReader]:
        """Send *request* on *connection* and return the head of the final answer, and its body, which still comes."""
        head = self._head(request)
        protocol, transport = connection.protocol, connection.transport
        if protocol is None or transport is None or transport.is_closing():
            raise aiohttp.ClientConnectionResetError
        protocol.set_response_params(
            read_until_eof=True,
            auto_decompress=False,
            read_timeout=self._timeout.sock_read,
            read_bufsize=self._read_bytes,
            max_line_size=self._line_bytes,
            max_field_size=self._line_bytes,
        )
        transport.write(head)
        protocol.start_timeout()
        return await _final(protocol)

    def _head(self, request: Request) -> bytes:
        """Return the head of *request* as it is sent; raises `ValueError` as `written` does."""
        lines = [f"{request.method} {self._path}{request.target} HTTP/1.1"]
        if request.fields.get("host") is None:  # it is there where it is signed
            lines.append(f"Host: {self._host}")
        lines += [f"{name}: {value}" for name, value in request.fields.lines]
        return written([*lines, "", ""])


async def _final(protocol: ResponseHandler) -> tuple[RawResponseMessage, StreamReader]:
    while True:
        message, body = await protocol.read()
        if message.code >= 200 or message.code == _SWITCHING:
            return message, body
