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

from proxy.core.cache_key import ListingKey
from proxy.core.messages import Response
from proxy.errors import ProxyError, StoreUnavailableError, TooManyCallsError
from proxy.observability.logging import Telemetry
from proxy.storage.base import Claim, SpanStore, State
from proxy.storage.circuit_breaker import begin_request

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


PERSONAL: Final = frozenset({401, 403})  # answers that are about who asks
# What tells of one call: the budget that it left, the name that it went by.
OF_THE_CALL: Final = frozenset(
    {
        "x-request-id",
        "x-openstack-request-id",
        *(f"x-apig-ratelimit-{policy}" for policy in ("user", "api", "app", "ip")),
    }
)
_CLAIM_POLLS: Final = 900
_JOINS: Final = 8
_CLAIM_POLL_S: Final = 0.1

Outcome = TypeVar("Outcome")


def without_its_call(response: Response) -> Response:
    """Return *response* as it is told to those who did not make the call that it answers."""
    return replace(response, fields=response.fields.without(OF_THE_CALL))


class Sharing(Generic[Outcome]):
    """Lets fetches that end in a `Outcome` be shared. *clock* gives epoch seconds."""

    def __init__(self, store: SpanStore, *, telemetry: Telemetry, clock: Callable[[], float]) -> None:
        self._store = store
        self._telemetry = telemetry
        self._clock = clock
        self._flights: Coalescer[Outcome] = Coalescer()

    async def close(self) -> None:
        """End the fetches that are under way."""
        await self._flights.close()

    async def shared(
        self,
        at: Hashable,
        fetch: Callable[[], Coroutine[None, None, Outcome]],
        *,
        serves: Callable[[Outcome, bool], bool],
        join_after: float = -inf,
    ) -> tuple[Outcome, bool] | None:
        """Return how the flight for *at* ended, and whether another caller began it; without one, *fetch* begins it.

        *serves* says whether a caller who followed may take a result. Its second argument is whether an earlier flight
        has already been of no use to this caller. A flight that began before *join_after* is not joined. None where no
        flight was of use: then the caller has to ask alone. Raises `ProxyError` where the upstream gave no answer.
        """
        failed = False
        for _ in range(_JOINS):
            follows = self._flights.flying(at, not_before=join_after)
            if follows:
                self._telemetry.collapsed()
            try:
                result = await self._flights.join(at, fetch, not_before=join_after)
            except TooManyCallsError:
                if not follows:
                    raise
                continue  # who led may have had less patience or a lower rank than this caller
            except ProxyError:
                if not follows or failed:
                    raise
                failed = True
                continue
            if not follows or serves(result, failed):
                return result, follows
            if failed:
                break
            failed = True
        return None

    async def claimed(
        self,
        key: ListingKey,
        after: str,
        fetch: Callable[[Claim], Awaitable[Outcome]],
        *,
        elsewhere: Callable[[], Awaitable[Outcome | None]],
        generation: str,
    ) -> Outcome:
        """Return the result of *fetch* under a claim, or, while another replica holds the claim, that of *elsewhere*.

        *elsewhere* looks for what that replica has fetched. Without the store, the claim carries *generation*.
        """
        claim, waited = await self._claim(key, after, generation), False
        for _ in range(_CLAIM_POLLS):
            if claim.fence is not None:
                break
            waited = True
            begin_request()  # the store has just answered, so what was waited for it until now counts no more
            if await self._settled(key, after) and (result := await elsewhere()):
                return result
            claim = await self._claim(key, after, generation)
        try:
            if waited and claim.fence and (result := await elsewhere()):
                return result
            return await fetch(claim)
        finally:
            await self._settle(key, after, claim)

    async def _claim(self, key: ListingKey, after: str, generation: str) -> Claim:
        try:
            return await self._store.claim(key, after, now=self._clock())
        except StoreUnavailableError:
            return Claim(State(generation), 0)

    async def _settle(self, key: ListingKey, after: str, claim: Claim) -> None:
        try:
            await self._store.settle(key, after, claim)
        except StoreUnavailableError:
            return  # the claim lapses by itself

    async def _settled(self, key: ListingKey, after: str) -> bool:
        try:
            return await self._store.settled(key, after, timeout_s=_CLAIM_POLL_S)
        except StoreUnavailableError:
            return False  # the next claim says how it stands
