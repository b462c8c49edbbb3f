"""One flight per key: whoever asks for what is already being fetched waits for that fetch.

A flight belongs to the table, not to the caller that began it. Two callers, A and B, and the same key:

1. A finds no flight, starts one, and waits for it.
2. B finds A's flight and waits for it too.
3. A hangs up: its wait is cancelled, the flight is not. B gets the answer.
4. The flight ends, with a result, an error or a cancellation: the table forgets it before anyone who waited runs, so
   that a caller who comes now starts another.

One fetch for all who want the same: in this process at most one is in flight, and among replicas too.

How a fetch can end, and what those who wait for it do:

- done: they take what it brought.
- the upstream answered, but not what may be shared: who led gets that answer; who followed asks once more. What those
  who follow again get, they share, for else a crowd would fall on an upstream that fails; but never a 401 or 403, which
  is about who asks: then each asks alone.
- the upstream could not be reached: likewise.
- the replica that led died, stands still, or lost its claim: it is silent, and the first who asks again takes it over.
- they waited too long: they fetch without a claim.
- the store is lost: every replica fetches for itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from typing import Final, Generic, TypeVar

from proxy.core.cache_key import CacheKey
from proxy.core.messages import Response
from proxy.errors import ProxyError, RateLimitedError, StoreUnavailableError
from proxy.observability.logging import Telemetry
from proxy.storage.base import FetchLock, ListingState, SpanStore
from proxy.storage.circuit_breaker import begin_request

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class _InFlight(Generic[Result]):
    task: asyncio.Task[Result]
    began_at: float  # by the event loop's clock


class RequestCollapser(Generic[Result]):
    """A table of flights; it owns their tasks and awaits them when it closes."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, _InFlight[Result]] = {}  # the latest for each key
        self._tasks: set[asyncio.Task[Result]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def is_in_flight(self, key: Hashable, *, not_before: float = -inf) -> bool:
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
            flight = _InFlight(asyncio.create_task(fetch()), asyncio.get_running_loop().time())
            self._flights[key] = flight
            self._tasks.add(flight.task)
            flight.task.add_done_callback(partial(self._forget_finished, key))
        await asyncio.wait((flight.task,))  # not `shield`, which since Python 3.14 logs an error that nobody waits for
        return flight.task.result()

    def _forget_finished(self, key: Hashable, task: asyncio.Task[Result]) -> None:
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


PERSONAL_STATUSES: Final = frozenset({401, 403})  # answers that are about who asks
# What tells of one call: the budget that it left, the name that it went by.
PER_CALL_FIELDS: Final = frozenset(
    {
        "x-request-id",
        "x-openstack-request-id",
        *(f"x-apig-ratelimit-{policy}" for policy in ("user", "api", "app", "ip")),
    }
)
_MAX_LOCK_POLLS: Final = 900
_MAX_JOINS: Final = 8
_LOCK_POLL_S: Final = 0.1

Outcome = TypeVar("Outcome")


def without_per_call_fields(response: Response) -> Response:
    """Return *response* as it is told to those who did not make the call that it answers."""
    return replace(response, fields=response.fields.without(PER_CALL_FIELDS))


class FetchCollapser(Generic[Outcome]):
    """Lets fetches that end in a `ReplayCounts` be shared. *clock* gives epoch seconds."""

    def __init__(self, store: SpanStore, *, telemetry: Telemetry, clock: Callable[[], float]) -> None:
        self._store = store
        self._telemetry = telemetry
        self._clock = clock
        self._flights: RequestCollapser[Outcome] = RequestCollapser()

    async def close(self) -> None:
        """End the fetches that are under way."""
        await self._flights.close()

    async def collapse(
        self,
        key: Hashable,
        fetch: Callable[[], Coroutine[None, None, Outcome]],
        *,
        is_usable: Callable[[Outcome, bool], bool],
        join_after: float = -inf,
    ) -> tuple[Outcome, bool] | None:
        """Return how the flight for *key* ended, and whether another caller began it; without one, *fetch* begins it.

        *is_usable* says whether a caller who followed may take a result. Its second argument is whether an earlier
        flight has already been of no use to this caller. A flight that began before *join_after* is not joined. None
        where no flight was of use: then the caller has to ask alone. Raises `ProxyError` where the upstream gave no
        answer.
        """
        failed = False
        for _ in range(_MAX_JOINS):
            collapsed = self._flights.is_in_flight(key, not_before=join_after)
            if collapsed:
                self._telemetry.record_collapsed()
            try:
                result = await self._flights.join(key, fetch, not_before=join_after)
            except RateLimitedError:
                if not collapsed:
                    raise
                continue  # who led may have had less patience or a lower rank than this caller
            except ProxyError:
                if not collapsed or failed:
                    raise
                failed = True
                continue
            if not collapsed or is_usable(result, failed):
                return result, collapsed
            if failed:
                break
            failed = True
        return None

    async def fetch_locked(
        self,
        key: CacheKey,
        marker: str,
        fetch: Callable[[FetchLock], Awaitable[Outcome]],
        *,
        find_fetched: Callable[[], Awaitable[Outcome | None]],
        generation: str,
    ) -> Outcome:
        """Return the result of *fetch* under a claim, or, while another replica holds the claim, that of
        *find_fetched*.

        *find_fetched* looks for what that replica has fetched. Without the store, the claim carries *generation*.
        """
        lock, waited = await self._acquire_lock(key, marker, generation), False
        for _ in range(_MAX_LOCK_POLLS):
            if lock.fence is not None:
                break
            waited = True
            begin_request()  # the store has just answered, so what was waited for it until now counts no more
            if await self._wait_for_release(key, marker) and (result := await find_fetched()):
                return result
            lock = await self._acquire_lock(key, marker, generation)
        try:
            if waited and lock.fence and (result := await find_fetched()):
                return result
            return await fetch(lock)
        finally:
            await self._release_lock(key, marker, lock)

    async def _acquire_lock(self, key: CacheKey, marker: str, generation: str) -> FetchLock:
        try:
            return await self._store.acquire_lock(key, marker, now=self._clock())
        except StoreUnavailableError:
            return FetchLock(ListingState(generation), 0)

    async def _release_lock(self, key: CacheKey, marker: str, lock: FetchLock) -> None:
        try:
            await self._store.release_lock(key, marker, lock)
        except StoreUnavailableError:
            return  # the claim lapses by itself

    async def _wait_for_release(self, key: CacheKey, marker: str) -> bool:
        try:
            return await self._store.wait_for_release(key, marker, timeout_s=_LOCK_POLL_S)
        except StoreUnavailableError:
            return False  # the next claim says how it stands
