"""Who waits for another replica's fetch, for however long that takes."""

from __future__ import annotations

import asyncio

from proxy.caching.collapsing import FetchCollapser
from proxy.core.cache_key import CacheKey
from proxy.core.span import LIST_START
from proxy.observability.event_loop import LoopClock
from proxy.observability.logging import Telemetry
from proxy.storage.base import FetchLock, ListingState
from proxy.storage.circuit_breaker import CircuitBreaker, begin_request
from proxy.storage.memory import MemoryStore
from tests.support.spans import KEY, NOW

TIMEOUT_S = 0.3
REPLY_S = 0.02
HELD_FOR = 40  # claims in all take much longer than one request may wait for the store
FENCE = 7


async def nothing() -> None:
    return None


class Held(MemoryStore):
    """A store that answers each claim after a moment; another replica holds the claim until it was asked often."""

    def __init__(self) -> None:
        super().__init__(0)
        self.asked = 0
        self.loop_clock = LoopClock()
        self.breaker = CircuitBreaker(
            timeout_s=TIMEOUT_S, loop_clock=self.loop_clock, probe=nothing, reset=nothing, on_failure=lambda _: None
        )

    async def acquire_lock(self, key: CacheKey, marker: str, *, now: float) -> FetchLock:
        return await self.breaker.call("claim", self._answer)

    async def _answer(self) -> FetchLock:
        await asyncio.sleep(REPLY_S)
        self.asked += 1
        return FetchLock(ListingState("0"), FENCE if self.asked > HELD_FOR else None)


async def test_long_fetch_of_another_replica_is_waited_for_however_often_the_store_is_asked() -> None:
    """What each look at the lock takes does not add up until the store counts as away, and the fetch is made twice."""
    store = Held()
    sharing: FetchCollapser[int] = FetchCollapser(store, telemetry=Telemetry(), clock=lambda: NOW)

    async def fetch(claim: FetchLock) -> int:
        assert claim.fence is not None
        return claim.fence

    begin_request()
    try:
        async with asyncio.timeout(60):
            assert await sharing.fetch_locked(KEY, LIST_START, fetch, find_fetched=nothing, generation="0") == FENCE
    finally:
        await store.breaker.close()
        store.loop_clock.stop()
