"""A way to a server that a test may cut, stop up, or alter what comes through it, for one of its clients alone."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final, Self

from tests.support.processes import LOOPBACK

_MOST_BYTES: Final = 1 << 16


class Relay:
    """Passes bytes to and from the loopback port *to*, within the running loop, each way after *delay_s*."""

    def __init__(self, to: int) -> None:
        self.delay_s = 0.0
        self._to = to
        self._whole = True
        self._passing = asyncio.Event()
        self._passing.set()
        self._ends: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._altering: tuple[bytes, bytes, bytes] | None = None
        self.altered = asyncio.Event()
        self.port = 0

    @property
    def whole(self) -> bool:
        """Whether bytes pass."""
        return self._whole and self._passing.is_set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._met, LOOPBACK, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Break every connection, and each that is made from now on."""
        self._whole = False
        for end in self._ends:
            end.transport.abort()

    def stop_up(self) -> None:
        """Let nothing pass from now on, in connections that stay open."""
        self._passing.clear()

    def mend(self) -> None:
        """Let everything pass again."""
        self._whole = True
        self._passing.set()

    def alter_once(self, old: bytes, new: bytes, *, on: bytes) -> None:
        """Put *new* in the place of the next *old* that the server sends on a connection whose client has sent *on*."""
        self._altering = (old, new, on)
        self.altered.clear()

    async def _met(self, here: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        if not self._whole:
            back.transport.abort()
            return
        there, on = await asyncio.open_connection(LOOPBACK, self._to)
        self._ends |= {back, on}
        sent = bytearray()  # what the client has sent so far
        for reader, writer, seen in ((here, on, sent), (there, back, None)):
            task = asyncio.create_task(self._passed(reader, writer, seen, sent))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _altered(self, data: bytes, sent: bytearray) -> bytes:
        if self._altering is None:
            return data
        old, new, on = self._altering
        if old not in data or on not in sent:
            return data
        self._altering = None
        self.altered.set()
        return data.replace(old, new, 1)

    async def _passed(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: bytearray | None, sent: bytearray
    ) -> None:
        """Pass bytes on. Those of the client are noted in *seen*, those of the server may be altered."""
        try:
            while data := await reader.read(_MOST_BYTES):
                if seen is None:
                    data = self._altered(data, sent)
                else:
                    seen += data[: _MOST_BYTES - len(seen)]
                await self._passing.wait()
                await asyncio.sleep(self.delay_s)
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # cut
        finally:
            writer.transport.abort()
            self._ends.discard(writer)
