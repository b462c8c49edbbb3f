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
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Coalescer(Generic[Result]):
    """A table of flights; it owns their tasks and awaits them when it closes."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, asyncio.Task[Result]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def flying(self, key: Hashable) -> bool:
        """Whether a flight for *key* is under way: who joins now follows another."""
        return key in self._flights

    async def join(self, key: Hashable, fetch: Callable[[], Coroutine[None, None, Result]]) -> Result:
        """Return the result of the flight for *key*, begun with *fetch* where there is none.

        Raises what *fetch* raised. A flight that is cancelled because the table closes raises `CancelledError`.
        """
        flight = self._flights.get(key)
        if flight is None:
            flight = asyncio.create_task(fetch())
            self._flights[key] = flight
            flight.add_done_callback(lambda done: self._landed(key, done))
        await asyncio.wait((flight,))  # not `shield`, which since Python 3.14 logs an error that nobody waits for
        return flight.result()

    def _landed(self, key: Hashable, flight: asyncio.Task[Result]) -> None:
        del self._flights[key]
        if not flight.cancelled():
            flight.exception()  # everyone who waited may have gone; then nobody else would look at it

    async def close(self) -> None:
        """Cancel what is in flight and wait until it has ended."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)
