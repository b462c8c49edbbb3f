"""One flight per key: whoever asks for what is already being fetched waits for that fetch.

A flight belongs to the table, not to the caller that began it. Two callers, A and B, and the same key:

1. A finds no flight, starts one, and waits for it.
2. B finds A's flight and waits for it too.
3. A hangs up: its wait is cancelled, the flight is not. B gets the answer.
4. The flight ends, with a result, an error or a cancellation: the table forgets it before anyone who waited runs, so
   that a caller who comes now starts another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Generic, TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class _Flight(Generic[Result]):
    task: asyncio.Task[Result]
    began_at: float  # by the event loop's clock


class Coalescer(Generic[Result]):
    """A table of flights; it owns their tasks and awaits them when it closes."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight[Result]] = {}  # the latest for each key
        self._tasks: set[asyncio.Task[Result]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def flying(self, key: Hashable, *, not_before: float = -inf) -> bool:
        """Whether a flight for *key* that began at *not_before* or later is under way: who joins now follows another.

        Times are by the event loop's clock.
        """
        flight = self._flights.get(key)
        return flight is not None and flight.began_at >= not_before

    async def join(
        self, key: Hashable, fetch: Callable[[], Coroutine[None, None, Result]], *, not_before: float = -inf
    ) -> Result:
        """Return the result of the flight for *key*, begun with *fetch* where none began at *not_before* or later.

        Raises what *fetch* raised. A flight that is cancelled because the table closes raises `CancelledError`.
        """
        flight = self._flights.get(key)
        if flight is None or flight.began_at < not_before:
            flight = _Flight(asyncio.create_task(fetch()), asyncio.get_running_loop().time())
            self._flights[key] = flight
            self._tasks.add(flight.task)
            flight.task.add_done_callback(partial(self._landed, key))
        await asyncio.wait((flight.task,))  # not `shield`, which since Python 3.14 logs an error that nobody waits for
        return flight.task.result()

    def _landed(self, key: Hashable, task: asyncio.Task[Result]) -> None:
        self._tasks.discard(task)
        flight = self._flights.get(key)
        if flight is not None and flight.task is task:
            del self._flights[key]
        if not task.cancelled():
            task.exception()  # everyone who waited may have gone; then nobody else would look at it

    async def close(self) -> None:
        """Cancel what is in flight and wait until it has ended."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
