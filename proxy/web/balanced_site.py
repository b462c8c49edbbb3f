"""Listens on a socket that several workers share, and leaves a connection to a worker that has fewer.

Every worker is woken by a new connection. Without this, the first to wake takes it, and with it all that came in the
same moment, so that one of two workers often had every connection of a burst. The workers therefore show each other in
shared memory how many connections they have. One that is ahead pauses, until the others have caught up or `PATIENCE_S`
have passed. No connection belongs to a worker before it is accepted, so none is lost with a worker that is stopped,
busy or dead:

1. Worker 1 is ahead of worker 2 and pauses. Worker 2 is stopped.
2. After `PATIENCE_S` the connection still waits. Worker 1 accepts it, and may accept one more in the same way.
3. As long as worker 2 accepts nothing, each further pause ends with twice as many connections: soon none pauses.
4. Worker 2 goes on and accepts a connection. From then on worker 1 waits for it again.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import socket
import ssl
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from proxy.telemetry import event

MARGIN: Final = 1  # connections that a worker may have more than another one before it pauses
PATIENCE_S: Final = 0.005  # longest wait of a connection for a worker that has fewer
_LOOK_S: Final = 0.001
_RETRY_S: Final = 1.0  # pause after accept() failed, above all because no descriptors are left
_HANDSHAKES_S: Final = 0.25  # in which handshakes end that had begun when the site was stopped


@dataclass(slots=True)
class _Allowance:
    """How many connections may be accepted before a peer that has fewer, as long as it has *accepted* no more."""

    accepted: int
    size: int
    left: int


class ConnectionTable:
    """How many connections each worker has open and has accepted so far, shared with processes that are forked later.

    A worker writes its own numbers only, and reads those of the others, which may be a moment old.
    """

    def __init__(self, worker_count: int) -> None:
        self._numbers = memoryview(mmap.mmap(-1, 16 * worker_count)).cast("Q")
        self.worker_count = worker_count

    def open(self, worker: int) -> int:
        """Return how many connections *worker* has."""
        return self._numbers[2 * worker]

    def accepted(self, worker: int) -> int:
        """Return how many connections *worker* ever accepted."""
        return self._numbers[2 * worker + 1]

    def set_open(self, worker: int, count: int) -> None:
        """Show how many connections *worker* has."""
        self._numbers[2 * worker] = count

    def count_accepted(self, worker: int) -> None:
        """Show that *worker* accepted one more."""
        self._numbers[2 * worker + 1] += 1


class WorkerLoad:
    """The connections of one worker, the *number*-th from 0, beside those of its peers in *table*."""

    def __init__(self, table: ConnectionTable, number: int) -> None:
        self._table = table
        self._number = number
        self._peers = [each for each in range(table.worker_count) if each != number]
        self._allowances: dict[int, _Allowance] = {}
        self._open = 0
        table.set_open(number, 0)  # a worker that had this number before may have died

    def opened(self) -> None:
        """Count a connection that begins."""
        self._open += 1
        self._table.set_open(self._number, self._open)

    def closed(self) -> None:
        """Count a connection that has ended."""
        self._open -= 1
        self._table.set_open(self._number, self._open)

    def accepted(self) -> None:
        """Note that this worker accepted a connection: it uses the allowances up."""
        self._table.count_accepted(self._number)
        for allowance in self._allowances.values():
            allowance.left -= 1

    def is_ahead(self) -> bool:
        """Whether to leave the next connection to a peer, which has fewer."""
        return any(not self._may_overtake(peer) for peer in self._behind())

    def overtake(self) -> None:
        """Allow connections to be accepted before the peers that have fewer and left one waiting: each time more."""
        for peer in self._behind():
            accepted, before = self._table.accepted(peer), self._allowances.get(peer)
            size = before.size * 2 if before and before.accepted == accepted else 1
            self._allowances[peer] = _Allowance(accepted, size, size)

    def _behind(self) -> list[int]:
        return [peer for peer in self._peers if self._open > self._table.open(peer) + MARGIN]

    def _may_overtake(self, peer: int) -> bool:
        allowance = self._allowances.get(peer)
        return allowance is not None and allowance.left > 0 and allowance.accepted == self._table.accepted(peer)


class BalancedSite(web.BaseSite):
    """Accepts connections from *listener* for *server*, the one of *runner*: one each time the loop comes by."""

    def __init__(
        self,
        runner: web.BaseRunner,
        server: web.Server,
        listener: socket.socket,
        load: WorkerLoad,
        *,
        ssl_context: ssl.SSLContext | None,
    ) -> None:
        super().__init__(runner, ssl_context=ssl_context)
        self._make_connection = server
        self._listener = listener
        self._load = load
        self._context = ssl_context
        self._loop = asyncio.get_running_loop()
        self._connecting: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def name(self) -> str:
        """Return the address, for aiohttp."""
        return str(self._listener.getsockname())

    async def start(self) -> None:
        """Begin to accept."""
        await super().start()
        self._listener.setblocking(False)
        self._resume()

    async def stop(self) -> None:
        """Accept no more."""
        await super().stop()
        self._pause()
        self._listener.close()
        if self._connecting:
            _, unfinished = await asyncio.wait(self._connecting, timeout=_HANDSHAKES_S)
            for each in unfinished:
                each.cancel()
            await asyncio.gather(*unfinished, return_exceptions=True)

    def _resume(self) -> None:
        self._loop.add_reader(self._listener, self._on_readable)

    def _pause(self) -> None:
        self._loop.remove_reader(self._listener)
        if self._timer:
            self._timer.cancel()

    def _on_readable(self) -> None:
        if not self._load.is_ahead():
            self._accept()
            return
        self._pause()
        self._wait_for_peers(self._loop.time() + PATIENCE_S)

    def _wait_for_peers(self, until: float) -> None:
        """Look again and again whether peers have caught up, and accept what still waits after *until*."""
        if not self._load.is_ahead():
            self._resume()
        elif self._loop.time() < until:
            self._timer = self._loop.call_later(_LOOK_S, self._wait_for_peers, until)
        else:
            self._resume()
            if self._accept():
                self._load.overtake()

    def _accept(self) -> bool:
        """Accept a connection, and return whether there was one."""
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False
        except OSError as error:
            event("accept-failed", level=logging.ERROR, error=error.strerror)
            self._pause()
            self._timer = self._loop.call_later(_RETRY_S, self._resume)
            return False
        connection.setblocking(False)
        self._load.accepted()
        task = self._loop.create_task(self._connect(connection))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        return True

    async def _connect(self, connection: socket.socket) -> None:
        """Give *connection* to the server, after the TLS handshake where there is one."""
        self._load.opened()  # the server counts it too, once it is connected; for a moment it counts twice
        try:
            await self._loop.connect_accepted_socket(self._make_connection, connection, ssl=self._context)
        except OSError:
            connection.close()
        except asyncio.CancelledError:
            connection.close()
            raise
        finally:
            self._load.closed()
