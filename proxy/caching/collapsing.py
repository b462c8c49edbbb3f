"""Request collapsing: one fetch for all who want the same, in this process and across replicas.

In a process, a fetch belongs to the table and not to the caller that began it. Two callers, A and B, and one key:

1. A finds no fetch in flight, starts one, and waits for it.
2. B finds A's fetch and waits for it too.
3. A hangs up: its wait is cancelled, the fetch is not. B gets the answer.
4. The fetch ends, with a result, an error or a cancellation. The table forgets it before anyone who waited runs, so a
   caller who comes now starts another.

Across replicas, a fetch lock in storage lets one replica fetch while the others wait. How a fetch can end, and what
those who wait for it do:

- It brought a result: they take it.
- The upstream answered with something that may not be shared: the caller that led gets that answer; those who followed
  ask once more. They share what comes then, for otherwise a crowd would fall on a failing upstream; but never a 401 or
  403, which is about one caller: then each asks alone.
- The upstream could not be reached: likewise.
- The replica that led died, stands still, or lost its lock: it is silent, and the first who asks again takes over.
- They waited too long: they fetch without a lock.
- Storage is lost: every replica fetches for itself.
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
from proxy.storage.base import Coordinator, FetchLock, ListingState
from proxy.storage.circuit_breaker import begin_request

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class _InFlight(Generic[Result]):
    task: asyncio.Task[Result]
    began_at: float  # by the event loop's clock


class RequestCollapser(Generic[Result]):
    """A table of fetches in flight; it owns their tasks and awaits them when it closes."""

    def __init__(self) -> None:
        self._in_flight: dict[Hashable, _InFlight[Result]] = {}  # the latest for each key
        self._tasks: set[asyncio.Task[Result]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def is_in_flight(self, key: Hashable, *, not_before: float = -inf) -> bool:
        """Return whether a fetch of *key* that began at *not_before* (event loop time) or later is in flight."""
        fetch = self._in_flight.get(key)
        return fetch is not None and fetch.began_at >= not_before

    async def join(
        self, key: Hashable, fetch: Callable[[], Coroutine[None, None, Result]], *, not_before: float = -inf
    ) -> Result:
        """Return the result of the fetch of *key* in flight; start *fetch* if none began at *not_before* or later.

        Raises what *fetch* raised, and `CancelledError` if the table closes meanwhile.
        """
        current = self._in_flight.get(key)
        if current is None or current.began_at < not_before:
            current = _InFlight(asyncio.create_task(fetch()), asyncio.get_running_loop().time())
            self._in_flight[key] = current
            self._tasks.add(current.task)
            current.task.add_done_callback(partial(self._forget_finished, key))
        # Not `shield`: since Python 3.14 it logs an error that nobody waits for.
        await asyncio.wait((current.task,))
        return current.task.result()

    def _forget_finished(self, key: Hashable, task: asyncio.Task[Result]) -> None:
        self._tasks.discard(task)
        current = self._in_flight.get(key)
        if current is not None and current.task is task:
            del self._in_flight[key]
        if not task.cancelled():
            task.exception()  # marks it as retrieved: everyone who waited may have gone

    async def close(self) -> None:
        """Cancel all fetches and wait until they have ended."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


PERSONAL_STATUSES: Final = frozenset({401, 403})  # they are about the caller
# Response fields about one call: its id, and what it left of a rate limit.
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
    """Return *response* for callers who did not make the call that it answers."""
    return replace(response, fields=response.fields.without(PER_CALL_FIELDS))


class FetchCollapser(Generic[Outcome]):
    """Collapses fetches that end in an `Outcome`. *clock* gives epoch seconds."""

    def __init__(self, store: Coordinator, *, telemetry: Telemetry, clock: Callable[[], float]) -> None:
        self._store = store
        self._telemetry = telemetry
        self._clock = clock
        self._collapser: RequestCollapser[Outcome] = RequestCollapser()

    async def close(self) -> None:
        await self._collapser.close()

    async def collapse(
        self,
        key: Hashable,
        fetch: Callable[[], Coroutine[None, None, Outcome]],
        *,
        is_usable: Callable[[Outcome, bool], bool],
        join_after: float = -inf,
    ) -> tuple[Outcome, bool] | None:
        """Return how the fetch of *key* ended, and whether another caller began it; *fetch* starts it if none runs.

        *is_usable(outcome, failed)* says whether a caller who followed may take an outcome; *failed* is whether an
        earlier fetch was already of no use to it. A fetch that began before *join_after* is not joined. Returns None if
        no fetch was of use: the caller has to ask alone. Raises `ProxyError` if the upstream gave no answer.
        """
        failed = False
        for _ in range(_MAX_JOINS):
            collapsed = self._collapser.is_in_flight(key, not_before=join_after)
            if collapsed:
                self._telemetry.record_collapsed()
            try:
                result = await self._collapser.join(key, fetch, not_before=join_after)
            except RateLimitedError:
                if not collapsed:
                    raise
                continue  # the caller that led may have had a lower priority or no time to wait
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
        """Return the outcome of *fetch* under the fetch lock, or of *find_fetched* once another replica has fetched.

        While storage is unavailable the lock carries *generation*.
        """
        lock, waited = await self._acquire_lock(key, marker, generation), False
        for _ in range(_MAX_LOCK_POLLS):
            if lock.fence is not None:
                break
            waited = True
            begin_request()  # storage has just answered: earlier waits for it no longer count
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
            return  # the lock expires by itself

    async def _wait_for_release(self, key: CacheKey, marker: str) -> bool:
        try:
            return await self._store.wait_for_release(key, marker, timeout_s=_LOCK_POLL_S)
        except StoreUnavailableError:
            return False  # acquiring the lock again will tell
