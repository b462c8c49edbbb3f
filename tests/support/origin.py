"""An upstream played by hand: a test reads what arrives on its connections, and writes what comes back."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class End:
    """One end of a connection; every wait is bounded."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, sent: bytes) -> None:
        self.writer.write(sent)

    async def head(self) -> bytes:
        """Return all up to the next empty line."""
        return await self.until(b"\r\n\r\n")

    async def until(self, end: bytes) -> bytes:
        async with asyncio.timeout(60):
            return await self.reader.readuntil(end)

    async def exactly(self, count: int) -> bytes:
        async with asyncio.timeout(60):
            return await self.reader.readexactly(count)

    async def rest(self) -> bytes:
        """Return what still comes until the other end closes, or cuts, the connection."""
        got = bytearray()
        async with asyncio.timeout(60):
            try:
                while chunk := await self.reader.read(2**16):
                    got += chunk
            except ConnectionError:
                pass
        return bytes(got)

    def cut(self) -> None:
        """End the connection at once, as a program that is killed does."""
        self.writer.transport.abort()

    def reset(self) -> None:
        """Cut the connection so that the other side can't take it for an end of one side alone."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.cut()


class Origin:
    """Accepts connections for the test to take, in the order in which they come."""

    def __init__(self) -> None:
        self.url = ""
        self._ends: asyncio.Queue[End] = asyncio.Queue()
        self._writers: list[asyncio.StreamWriter] = []

    async def end(self) -> End:
        """Return the next connection."""
        async with asyncio.timeout(60):
            return await self._ends.get()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        await self._ends.put(End(reader, writer))

    def close(self) -> None:
        """Cut what is still connected."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()


@asynccontextmanager
async def an_origin() -> AsyncIterator[Origin]:
    """Listen for as long as the context lasts."""
    origin = Origin()
    server = await asyncio.start_server(origin.accept, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    origin.url = f"http://{host}:{port}"
    try:
        yield origin
    finally:
        server.close()
        origin.close()


@asynccontextmanager
async def a_caller(url: str) -> AsyncIterator[End]:
    """Connect to *url* for as long as the context lasts."""
    parts = urlsplit(url)
    async with asyncio.timeout(60):
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        yield End(reader, writer)
    finally:
        writer.close()
