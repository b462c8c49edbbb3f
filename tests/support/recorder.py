"""An upstream that keeps every byte it receives, and divides them strictly by RFC 9112: it makes no guess."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

_HEAD_END = b"\r\n\r\n"
_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]+)\r\n")
_LONGEST_HEAD = 16 * 1024 * 1024
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"


@dataclass(frozen=True, slots=True)
class Message:
    """One request as it arrived: its *head* without the empty line, its *body* with the framing taken off."""

    head: bytes
    body: bytes

    @property
    def line(self) -> str:
        """The request line."""
        return self.head.partition(b"\r\n")[0].decode("latin-1")

    def values(self, name: str) -> list[str]:
        """Return the values of the field *name*, in order."""
        lines = (line.decode("latin-1").partition(":") for line in self.head.split(b"\r\n")[1:])
        return [value.strip() for told, _, value in lines if told.lower() == name.lower()]

    def __str__(self) -> str:
        """Return method, target and body, as tests compare them."""
        method, target, _ = self.line.split(" ")
        return f"{method} {target} {self.body.decode('latin-1')}".rstrip()


@dataclass(slots=True)
class Recorder:
    """What arrived on all connections: *messages* that are whole, and *rest*, the bytes that make none."""

    url: str = ""
    messages: list[Message] = field(default_factory=list)
    rest: bytes = b""
    answer: bytes = _ANSWER
    ended: asyncio.Condition = field(default_factory=asyncio.Condition)
    began: asyncio.Event = field(default_factory=asyncio.Event)
    open: int = 0

    @property
    def told(self) -> list[str]:
        """The messages, as tests compare them."""
        return [str(message) for message in self.messages]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Record one connection, and answer each message of it."""
        line = _Line(reader, self.began)
        self.open += 1
        try:
            while True:
                line.taken.clear()
                self.messages.append(await line.message())
                writer.write(self.answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError, ConnectionError):
            self.rest += bytes(line.taken) + await _all(reader)
        finally:
            writer.close()
            self.open -= 1
            async with self.ended:
                self.ended.notify_all()

    async def all_ended(self) -> None:
        """Return once every connection has ended."""
        async with asyncio.timeout(60), self.ended:
            await self.ended.wait_for(lambda: not self.open)


async def _all(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""


@dataclass(slots=True)
class _Line:
    """One connection's bytes; *taken* are those since the last whole message."""

    reader: asyncio.StreamReader
    began: asyncio.Event
    taken: bytearray = field(default_factory=bytearray)

    async def message(self) -> Message:
        message = Message((await self._until(_HEAD_END)).removesuffix(_HEAD_END), b"")
        self.began.set()
        lengths, codings = message.values("content-length"), message.values("transfer-encoding")
        if (lengths and codings) or len(lengths) > 1 or codings not in ([], ["chunked"]):
            raise ValueError("framing: two ways to divide it")
        if codings:
            return Message(message.head, await self._chunked())
        return Message(message.head, await self._exactly(int(lengths[0])) if lengths else b"")

    async def _chunked(self) -> bytes:
        body = bytearray()
        while True:
            size = _CHUNK_SIZE.fullmatch(await self._until(b"\r\n"))
            if size is None:
                raise ValueError("chunk: no size, or more than that")
            chunk = await self._exactly(int(size[1], 16) + 2)
            if not chunk.endswith(b"\r\n"):
                raise ValueError("chunk: longer than it says")
            if len(chunk) == 2:
                return bytes(body)
            body += chunk[:-2]

    async def _until(self, end: bytes) -> bytes:
        try:
            got = await self.reader.readuntil(end)
        except asyncio.IncompleteReadError as error:
            self.taken += error.partial
            raise
        self.taken += got
        return got

    async def _exactly(self, count: int) -> bytes:
        try:
            got = await self.reader.readexactly(count)
        except asyncio.IncompleteReadError as error:
            self.taken += error.partial
            raise
        self.taken += got
        return got


@asynccontextmanager
async def recording() -> AsyncIterator[Recorder]:
    """Run a recorder for as long as the context lasts."""
    recorder = Recorder()
    server = await asyncio.start_server(recorder.serve, "127.0.0.1", 0, limit=_LONGEST_HEAD)
    host, port = server.sockets[0].getsockname()
    recorder.url = f"http://{host}:{port}"
    try:
        yield recorder
    finally:
        server.close()
        await recorder.all_ended()
