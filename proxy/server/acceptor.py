"""Accepts callers' connections: one at a wake-up while few come, and many while a crowd waits.

The event loop's own server accepts one connection each time it turns. With a thousand callers a turn takes a tenth of a
second and more, so the last of a crowd waited for many seconds before anybody heard of it. Several workers share one
listening socket; one that is ahead of the others leaves connections to them, see `proxy.server.acceptor`.

How many connections each worker has: shown in shared memory, so that none takes all of a burst.

Every worker is woken by a new connection. The first to wake would take it, and with it all that came in the same
moment. So one that is ahead leaves connections to the others, for a moment. No connection belongs to a worker before it
is accepted, so none is lost with a worker that is stopped, busy or dead:

1. Worker 1 is ahead of worker 2 and waits. Worker 2 is stopped.
2. After `PATIENCE_S` the connection is still there. Worker 1 accepts it, and may accept one more in the same way.
3. As long as worker 2 accepts nothing, each further wait ends with twice as many connections: soon none waits.
4. Worker 2 goes on and accepts a connection. From then on worker 1 waits for it again.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from proxy.observability.logging import log_event

MARGIN: Final = 1  # connections that a worker may have more than another one before it waits,
MARGIN_SHARE: Final = 8  # and one for each so many that the other one has: short connections come and go
PATIENCE_S: Final = 0.005  # longest wait of a connection for a worker that has fewer


@dataclass(slots=True)
class _Overtaking:
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
        self._allowances: dict[int, _Overtaking] = {}
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
        for limit in self._allowances.values():
            limit.left -= 1

    def is_ahead(self) -> bool:
        """Whether to leave the next connection to a peer, which has fewer."""
        return any(self._is_behind(peer) and not self._may_overtake(peer) for peer in self._peers)

    def overtake(self) -> None:
        """Allow connections to be accepted before the peers that have fewer and left one waiting: each time more."""
        for peer in filter(self._is_behind, self._peers):
            accepted, before = self._table.accepted(peer), self._allowances.get(peer)
            size = before.size * 2 if before and before.accepted == accepted else 1
            self._allowances[peer] = _Overtaking(accepted, size, size)

    def _is_behind(self, peer: int) -> bool:
        has = self._table.open(peer)
        return self._open > has + MARGIN + has // MARGIN_SHARE

    def _may_overtake(self, peer: int) -> bool:
        limit = self._allowances.get(peer)
        return limit is not None and limit.left > 0 and limit.accepted == self._table.accepted(peer)


_MAX_BATCH: Final = 64
_PAUSE_S: Final = 1.0
_LOOK_S: Final = 0.001
_MAX_HANDSHAKE_WAIT_S: Final = 0.25  # in which TLS handshakes end that have begun when it is stopped


class Acceptor:
    """Accepts connections at listening *sockets*, and makes each a protocol from *factory*, by TLS with a *context*.

    With a *load* it leaves connections to other workers that have fewer.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        factory: Callable[[], asyncio.BaseProtocol],
        *,
        context: ssl.SSLContext | None = None,
        load: WorkerLoad | None = None,
    ) -> None:
        self._sockets = sockets
        self._factory = factory
        self._context = context
        self._load = load
        self._at_once = dict.fromkeys(sockets, 1)
        self._paused: dict[socket.socket, asyncio.TimerHandle] = {}
        self._connecting: set[asyncio.Task[object]] = set()

    def start(self) -> None:
        """Begin to accept on the running loop."""
        for each in self._sockets:
            each.setblocking(False)
            self._resume(each)

    async def stop(self) -> None:
        """Accept what already waits, and then nobody any more. The sockets are closed.

        Who is slow to begin TLS is not waited for: one who connects and says nothing would keep the proxy from ending.
        """
        for each in self._sockets:
            asyncio.get_running_loop().remove_reader(each)
            while self._accept_one(each):
                pass
            if pause := self._paused.pop(each, None):
                pause.cancel()
            each.close()
        if self._connecting:
            _, unfinished = await asyncio.wait(self._connecting, timeout=_MAX_HANDSHAKE_WAIT_S)
            for task in unfinished:
                task.cancel()
            await asyncio.gather(*unfinished, return_exceptions=True)

    def _resume(self, listening: socket.socket) -> None:
        self._paused.pop(listening, None)
        asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def _accept(self, listening: socket.socket) -> None:
        """Accept some of those who wait at *listening*."""
        for _ in range(self._at_once[listening]):
            if self._load is not None and self._load.is_ahead():
                asyncio.get_running_loop().remove_reader(listening)
                self._wait_for_peers(listening, self._load, asyncio.get_running_loop().time() + PATIENCE_S)
                return
            if not self._accept_one(listening):
                self._at_once[listening] = 1
                return
        self._at_once[listening] = min(2 * self._at_once[listening], _MAX_BATCH)

    def _wait_for_peers(self, listening: socket.socket, load: WorkerLoad, until: float) -> None:
        """Look again and again whether peers have caught up, and accept what still waits after *until*."""
        loop = asyncio.get_running_loop()
        if load.is_ahead() and loop.time() < until:
            self._paused[listening] = loop.call_later(_LOOK_S, self._wait_for_peers, listening, load, until)
            return
        still_ahead = load.is_ahead()
        self._resume(listening)
        if still_ahead and self._accept_one(listening):
            load.overtake()

    def _accept_one(self, listening: socket.socket) -> bool:
        """Accept one of those who wait at *listening*, and return whether there was one."""
        try:
            connection, _ = listening.accept()
        except (BlockingIOError, InterruptedError):
            return False
        except ConnectionAbortedError:
            return True
        except OSError as error:
            log_event("accept_failed", level=logging.ERROR, error=error.strerror)
            self._pause(listening)
            return False
        connection.setblocking(False)
        if self._load is not None:
            self._load.accepted()
        self._connect(connection)
        return True

    def _pause(self, listening: socket.socket) -> None:
        """Leave connections where they wait: there is no descriptor or memory for them now."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening)
        self._paused[listening] = loop.call_later(_PAUSE_S, self._resume, listening)

    def _connect(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._connected(connection))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connected(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        if self._load is not None:
            self._load.opened()  # the server counts it too, once it is connected; for a moment it counts twice
        try:
            await loop.connect_accepted_socket(self._factory, connection, ssl=self._context)
        except OSError:  # `ssl.SSLError` among them
            connection.close()  # it went away, or its TLS handshake failed
        except asyncio.CancelledError:
            connection.close()
            raise
        finally:
            if self._load is not None:
                self._load.closed()
