"""Accepts callers' connections: one at a wake-up while few come, and many while a crowd waits.

The event loop's own server accepts one connection each time it turns. With a thousand callers a turn takes a tenth of a
second and more, so the last of a crowd waited for many seconds before anybody heard of it. Several workers share one
listening socket; one that is ahead of the others leaves connections to them, see `proxy.server.acceptor`.

How many connections each worker has: shown in shared memory, so that none takes all of a burst.

Every worker is woken by a new connection. The first to wake would take it, and with it all that came in the same
moment. So one that is ahead leaves connections to the others, for a moment. No connection belongs to a worker before it
is accepted, so none is lost with a worker that is stopped, busy or dead:

1. Worker 1 is ahead of worker 2 and waits. Worker 2 is stopped.
2. After `MAX_PEER_WAIT_S` the connection is still there. Worker 1 accepts it, and may accept one more in the same way.
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

LEAD_MARGIN: Final = 1  # connections that a worker may have more than another one before it waits,
LEAD_MARGIN_DIVISOR: Final = 8  # and one for each so many that the other one has: short connections come and go
MAX_PEER_WAIT_S: Final = 0.005  # longest wait of a connection for a worker that has fewer


@dataclass(slots=True)
class _OvertakeLimit:
    """How many connections may be accepted before a peer that has fewer, as long as *peer_accepted* does not grow."""

    peer_accepted: int
    size: int
    remaining: int


class ConnectionTable:
    """How many connections each worker has open and has accepted so far, shared with processes that are forked later.

    A worker writes its own numbers only, and reads those of the others, which may be a moment old.
    """

    def __init__(self, worker_count: int) -> None:
        self._counts = memoryview(mmap.mmap(-1, 16 * worker_count)).cast("Q")
        self.worker_count = worker_count

    def open_count(self, worker: int) -> int:
        """Return how many connections *worker* has."""
        return self._counts[2 * worker]

    def accepted_count(self, worker: int) -> int:
        """Return how many connections *worker* ever accepted."""
        return self._counts[2 * worker + 1]

    def set_open_count(self, worker: int, count: int) -> None:
        """Show how many connections *worker* has."""
        self._counts[2 * worker] = count

    def increment_accepted(self, worker: int) -> None:
        """Show that *worker* accepted one more."""
        self._counts[2 * worker + 1] += 1


class WorkerLoad:
    """The connections of one worker, the *worker_index*-th from 0, beside those of its peers in *table*."""

    def __init__(self, table: ConnectionTable, worker_index: int) -> None:
        self._table = table
        self._worker_index = worker_index
        self._peer_indexes = [each for each in range(table.worker_count) if each != worker_index]
        self._overtake_limits: dict[int, _OvertakeLimit] = {}
        self._open_count = 0
        table.set_open_count(worker_index, 0)  # a worker that had this number before may have died

    def record_opened(self) -> None:
        """Count a connection that begins."""
        self._open_count += 1
        self._table.set_open_count(self._worker_index, self._open_count)

    def record_closed(self) -> None:
        """Count a connection that has ended."""
        self._open_count -= 1
        self._table.set_open_count(self._worker_index, self._open_count)

    def record_accepted(self) -> None:
        """Note that this worker accepted a connection: it uses the allowances up."""
        self._table.increment_accepted(self._worker_index)
        for limit in self._overtake_limits.values():
            limit.remaining -= 1

    def is_ahead(self) -> bool:
        """Whether to leave the next connection to a peer, which has fewer."""
        return any(self._is_behind(peer) and not self._may_overtake(peer) for peer in self._peer_indexes)

    def allow_overtaking(self) -> None:
        """Allow connections to be accepted before the peers that have fewer and left one waiting: each time more."""
        for peer in filter(self._is_behind, self._peer_indexes):
            accepted, previous = self._table.accepted_count(peer), self._overtake_limits.get(peer)
            size = previous.size * 2 if previous and previous.peer_accepted == accepted else 1
            self._overtake_limits[peer] = _OvertakeLimit(accepted, size, size)

    def _is_behind(self, peer: int) -> bool:
        peer_open = self._table.open_count(peer)
        return self._open_count > peer_open + LEAD_MARGIN + peer_open // LEAD_MARGIN_DIVISOR

    def _may_overtake(self, peer: int) -> bool:
        limit = self._overtake_limits.get(peer)
        return limit is not None and limit.remaining > 0 and limit.peer_accepted == self._table.accepted_count(peer)


_MAX_BATCH: Final = 64
_ACCEPT_RETRY_S: Final = 1.0
_POLL_INTERVAL_S: Final = 0.001
_MAX_HANDSHAKE_WAIT_S: Final = 0.25  # in which TLS handshakes end that have begun when it is stopped


class Acceptor:
    """Accepts connections at listening *sockets*, and makes each a protocol from *protocol_factory*, by TLS with a
    *ssl_context*.

    With a *worker_load* it leaves connections to other workers that have fewer.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        *,
        ssl_context: ssl.SSLContext | None = None,
        worker_load: WorkerLoad | None = None,
    ) -> None:
        self._sockets = sockets
        self._protocol_factory = protocol_factory
        self._ssl_context = ssl_context
        self._worker_load = worker_load
        self._batch_sizes = dict.fromkeys(sockets, 1)
        self._resume_timers: dict[socket.socket, asyncio.TimerHandle] = {}
        self._connect_tasks: set[asyncio.Task[object]] = set()

    def start(self) -> None:
        """Begin to accept on the running loop."""
        for each in self._sockets:
            each.setblocking(False)
            self._resume_accepting(each)

    async def stop(self) -> None:
        """Accept what already waits, and then nobody any more. The sockets are closed.

        Who is slow to begin TLS is not waited for: one who connects and says nothing would keep the proxy from ending.
        """
        for each in self._sockets:
            asyncio.get_running_loop().remove_reader(each)
            while self._accept_one(each):
                pass
            if pause := self._resume_timers.pop(each, None):
                pause.cancel()
            each.close()
        if self._connect_tasks:
            _, unfinished = await asyncio.wait(self._connect_tasks, timeout=_MAX_HANDSHAKE_WAIT_S)
            for task in unfinished:
                task.cancel()
            await asyncio.gather(*unfinished, return_exceptions=True)

    def _resume_accepting(self, listener: socket.socket) -> None:
        self._resume_timers.pop(listener, None)
        asyncio.get_running_loop().add_reader(listener, self._accept_batch, listener)

    def _accept_batch(self, listener: socket.socket) -> None:
        """Accept some of those who wait at *listener*."""
        for _ in range(self._batch_sizes[listener]):
            if self._worker_load is not None and self._worker_load.is_ahead():
                asyncio.get_running_loop().remove_reader(listener)
                self._wait_for_peers(listener, self._worker_load, asyncio.get_running_loop().time() + MAX_PEER_WAIT_S)
                return
            if not self._accept_one(listener):
                self._batch_sizes[listener] = 1
                return
        self._batch_sizes[listener] = min(2 * self._batch_sizes[listener], _MAX_BATCH)

    def _wait_for_peers(self, listener: socket.socket, worker_load: WorkerLoad, deadline: float) -> None:
        """Look again and again whether peers have caught up, and accept what still waits after *deadline*."""
        loop = asyncio.get_running_loop()
        if worker_load.is_ahead() and loop.time() < deadline:
            self._resume_timers[listener] = loop.call_later(
                _POLL_INTERVAL_S, self._wait_for_peers, listener, worker_load, deadline
            )
            return
        is_still_ahead = worker_load.is_ahead()
        self._resume_accepting(listener)
        if is_still_ahead and self._accept_one(listener):
            worker_load.allow_overtaking()

    def _accept_one(self, listener: socket.socket) -> bool:
        """Accept one of those who wait at *listener*, and return whether there was one."""
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, InterruptedError):
            return False
        except ConnectionAbortedError:
            return True
        except OSError as error:
            log_event("accept_failed", level=logging.ERROR, error=error.strerror)
            self._pause_accepting(listener)
            return False
        connection.setblocking(False)
        if self._worker_load is not None:
            self._worker_load.record_accepted()
        self._start_connecting(connection)
        return True

    def _pause_accepting(self, listener: socket.socket) -> None:
        """Leave connections where they wait: there is no descriptor or memory for them now."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener)
        self._resume_timers[listener] = loop.call_later(_ACCEPT_RETRY_S, self._resume_accepting, listener)

    def _start_connecting(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._connect_accepted(connection))
        self._connect_tasks.add(task)
        task.add_done_callback(self._connect_tasks.discard)

    async def _connect_accepted(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        if self._worker_load is not None:
            # The server counts it too, once it is connected: for a moment it counts twice.
            self._worker_load.record_opened()
        try:
            await loop.connect_accepted_socket(self._protocol_factory, connection, ssl=self._ssl_context)
        except OSError:  # `ssl.SSLError` among them
            connection.close()  # it went away, or its TLS handshake failed
        except asyncio.CancelledError:
            connection.close()
            raise
        finally:
            if self._worker_load is not None:
                self._worker_load.record_closed()
