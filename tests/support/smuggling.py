"""A proxy before a recorder, and a caller that sends bytes as they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import orjson
import pytest

from tests.support.bounded import bounded
from tests.support.recorder import Recorder, recording
from tests.support.running import a_proxy

__all__ = ["bounded"]

LAST = b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def request(line: str, *lines: str, host: str | None = "x", body: bytes = b"") -> bytes:
    """Return a request with these *lines*, as they are, after its `Host`."""
    hosts = [] if host is None else [f"Host: {host}"]
    return "".join(f"{each}\r\n" for each in (line, *hosts, *lines, "")).encode("latin-1") + body


@dataclass(frozen=True, slots=True)
class Got:
    """One answer as it came."""

    status: int
    fields: dict[str, str]
    body: bytes

    def assert_ours(self) -> None:
        """Assert that it is an error of the gateway's shape, which quotes nothing and ends the connection."""
        told = orjson.loads(self.body)
        assert set(told) == {"error_code", "error_msg", "request_id"}
        assert told["error_code"] == f"PROXY.0{self.status}"
        assert told["request_id"] == self.fields["x-request-id"]
        assert self.fields["connection"] == "close"
        assert self.fields["cache-status"].startswith("ims-proxy; fwd=bypass")


@dataclass(frozen=True, slots=True)
class Line:
    """One connection to the proxy."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def answer_to(self, sent: bytes) -> Got:
        """Send *sent* and return the next final answer, framed by its length."""
        self.writer.write(sent)
        return await self.answer()

    async def answer(self) -> Got:
        """Return the next final answer; raises `IncompleteReadError` at the end."""
        while True:
            head = await self.reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
            fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            status = int(first.split(" ")[1])
            if status >= 200:
                return Got(status, fields, await self.reader.readexactly(int(fields["content-length"])))


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Line]:
    """Give a connection for as long as the context lasts, twenty seconds at most."""
    parts = urlsplit(url)
    async with asyncio.timeout(60):
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            yield Line(reader, writer)
        finally:
            writer.close()


async def answers(url: str, sent: bytes) -> list[Got]:
    """Send *sent* on a connection of its own and return every answer that comes until it ends."""
    got = []
    async with connected(url) as line:
        line.writer.write(sent)
        while True:
            try:
                got.append(await line.answer())
            except asyncio.IncompleteReadError as error:
                if error.partial:
                    raise  # bytes behind the last answer
                return got


@pytest.fixture
async def upstream() -> AsyncIterator[Recorder]:
    """The recorder."""
    async with recording() as recorder:
        yield recorder


@pytest.fixture
async def url(upstream: Recorder) -> AsyncIterator[str]:
    """Where a proxy before the recorder listens."""
    async with a_proxy(upstream.url) as proxy:
        yield proxy.client.url
