"""The command as its users start it: a child process whose output is read while it runs."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import orjson

_START_S = 60.0
_END_S = 60.0


class Started:
    """A running command; *output* and *errors* are what it has written so far."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self.child = child
        self.output = bytearray()
        self.errors = bytearray()
        self._grew = asyncio.Condition()
        assert child.stdout is not None
        assert child.stderr is not None
        self._readers = [
            asyncio.create_task(self._read(child.stdout, self.output)),
            asyncio.create_task(self._read(child.stderr, self.errors)),
        ]

    async def _read(self, stream: asyncio.StreamReader, into: bytearray) -> None:
        while chunk := await stream.read(65_536):
            async with self._grew:
                into += chunk
                self._grew.notify_all()
        async with self._grew:
            self._grew.notify_all()

    async def wrote(self, condition: Callable[[], bool]) -> None:
        """Return once *condition* of what was written holds."""
        async with asyncio.timeout(_START_S), self._grew:
            await self._grew.wait_for(lambda: condition() or all(reader.done() for reader in self._readers))
        assert condition(), self.errors.decode()

    def events(self, name: str) -> list[dict[str, object]]:
        """Return the logged events of that name."""
        lines = [line for line in bytes(self.errors).splitlines() if line.startswith(b"{")]
        return [event for event in map(orjson.loads, lines) if event["event"] == name]

    async def listening(self) -> tuple[str, str]:
        """Return where callers and operators come, as the command says itself."""
        await self.wrote(lambda: bool(self.events("listening")))
        (event,) = self.events("listening")
        return str(event["client_url"]), str(event["admin_url"])

    async def ended(self, *, by: signal.Signals | None = None) -> int:
        """Send the signal *by*, if there is one, and return the exit status; all output has then been read."""
        if by is not None:
            self.child.send_signal(by)
        async with asyncio.timeout(_END_S):
            status = await self.child.wait()
            await asyncio.gather(*self._readers)
        return status


@asynccontextmanager
async def command(*words: str, at: Path, **settings: str) -> AsyncIterator[Started]:
    """Start `ims-proxy` with *words* in the directory *at*, *settings* as its environment; it ends with the context."""
    around = {name: value for name, value in os.environ.items() if not name.startswith("IMS_PROXY_")}
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", *words),
        env=around | {f"IMS_PROXY_{name}": value for name, value in settings.items()},
        cwd=at,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    started = Started(child)
    try:
        yield started
    finally:
        if child.returncode is None:
            child.kill()
        await started.ended()


ON_FREE_PORTS = ("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
