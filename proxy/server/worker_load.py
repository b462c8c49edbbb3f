"""How many connections each worker has: shown in shared memory, so that none takes all of a burst.

Every worker is woken by a new connection. The first to wake would take it, and with it all that came in the same
moment. So one that is ahead leaves connections to the others, for a moment. No connection belongs to a worker before it
is accepted, so none is lost with a worker that is stopped, busy or dead:

1. Worker 1 is ahead of worker 2 and waits. Worker 2 is stopped.
2. After `PATIENCE_S` the connection is still there. Worker 1 accepts it, and may accept one more in the same way.
3. As long as worker 2 accepts nothing, each further wait ends with twice as many connections: soon none waits.
4. Worker 2 goes on and accepts a connection. From then on worker 1 waits for it again.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import Final

MARGIN: Final = 1  # connections that a worker may have more than another one before it waits,
MARGIN_SHARE: Final = 8  # and one for each so many that the other one has: short connections come and go
PATIENCE_S: Final = 0.005  # longest wait of a connection for a worker that has fewer


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
        return any(self._is_behind(peer) and not self._may_overtake(peer) for peer in self._peers)

    def overtake(self) -> None:
        """Allow connections to be accepted before the peers that have fewer and left one waiting: each time more."""
        for peer in filter(self._is_behind, self._peers):
            accepted, before = self._table.accepted(peer), self._allowances.get(peer)
            size = before.size * 2 if before and before.accepted == accepted else 1
            self._allowances[peer] = _Allowance(accepted, size, size)

    def _is_behind(self, peer: int) -> bool:
        has = self._table.open(peer)
        return self._open > has + MARGIN + has // MARGIN_SHARE

    def _may_overtake(self, peer: int) -> bool:
        allowance = self._allowances.get(peer)
        return allowance is not None and allowance.left > 0 and allowance.accepted == self._table.accepted(peer)
