"""One flight per key, whatever becomes of those who wait for it."""

from __future__ import annotations

import asyncio
import gc

import pytest

from proxy.caching.collapsing import RequestCollapser


class Gated:
    """A fetch that waits at a gate and counts how often it was begun."""

    def __init__(self) -> None:
        self.begun = 0
        self.gate = asyncio.Event()
        self.failure: Exception | None = None

    async def fetch(self) -> int:
        self.begun += 1
        number = self.begun
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return number


@pytest.fixture
def gated() -> Gated:
    return Gated()


async def turns(count: int = 3) -> None:
    """Let every task that can run do so."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_hundred_callers_share_one_fetch(gated: Gated) -> None:
    """All of them get what the one fetch gave, and the table is empty again."""
    table: RequestCollapser[int] = RequestCollapser()
    callers = [asyncio.create_task(table.join("k", gated.fetch)) for _ in range(100)]
    await turns()
    assert (gated.begun, len(table), table.is_in_flight("k")) == (1, 1, True)
    gated.gate.set()
    assert await asyncio.gather(*callers) == [1] * 100
    assert (gated.begun, len(table), table.is_in_flight("k")) == (1, 0, False)


async def test_keys_fly_apart(gated: Gated) -> None:
    """Another key is another fetch."""
    table: RequestCollapser[int] = RequestCollapser()
    callers = [asyncio.create_task(table.join(key, gated.fetch)) for key in "abca"]
    await turns()
    assert (gated.begun, len(table)) == (3, 3)
    gated.gate.set()
    assert await asyncio.gather(*callers) == [1, 2, 3, 1]


async def test_who_comes_after_the_landing_starts_another(gated: Gated) -> None:
    """A flight is not remembered once it has ended, not even by those it wakes."""
    table: RequestCollapser[int] = RequestCollapser()
    gated.gate.set()

    async def twice() -> tuple[int, int]:
        return await table.join("k", gated.fetch), await table.join("k", gated.fetch)

    assert await twice() == (1, 2)


async def test_the_first_caller_may_hang_up(gated: Gated) -> None:
    """The fetch goes on for the others, and nobody fetches again."""
    table: RequestCollapser[int] = RequestCollapser()
    first, second = (asyncio.create_task(table.join("k", gated.fetch)) for _ in range(2))
    await turns()
    first.cancel()
    await turns()
    assert first.cancelled()
    gated.gate.set()
    assert await second == 1
    assert gated.begun == 1


async def test_all_callers_may_hang_up(gated: Gated) -> None:
    """The fetch ends all the same, its result is for nobody, and nothing is left behind."""
    table: RequestCollapser[int] = RequestCollapser()
    callers = [asyncio.create_task(table.join("k", gated.fetch)) for _ in range(3)]
    await turns()
    for caller in callers:
        caller.cancel()
    await turns()
    assert table.is_in_flight("k")
    gated.gate.set()
    await turns()
    assert len(table) == 0


async def test_an_error_reaches_everyone_who_waits(gated: Gated) -> None:
    """Leader and followers get the same error, and the next caller another fetch."""
    table: RequestCollapser[int] = RequestCollapser()
    gated.failure = LookupError("gone")
    callers = [asyncio.create_task(table.join("k", gated.fetch)) for _ in range(5)]
    await turns()
    gated.gate.set()
    ended = await asyncio.gather(*callers, return_exceptions=True)
    assert ended == [gated.failure] * 5
    gated.failure = None
    assert await table.join("k", gated.fetch) == 2


async def test_an_error_that_nobody_waits_for_is_not_reported_as_lost(gated: Gated) -> None:
    """When everyone has hung up, a failing fetch ends in silence."""
    lost: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: lost.append(context))
    table: RequestCollapser[int] = RequestCollapser()
    gated.failure = LookupError("gone")
    caller = asyncio.create_task(table.join("k", gated.fetch))
    await turns()
    caller.cancel()
    gated.gate.set()
    await turns()
    del caller
    gc.collect()
    assert (lost, len(table)) == ([], 0)


async def test_closing_ends_flights_and_waits_for_them(gated: Gated) -> None:
    """A table that closes cancels what is under way; whoever waits is told."""
    table: RequestCollapser[int] = RequestCollapser()
    callers = [asyncio.create_task(table.join(key, gated.fetch)) for key in "aab"]
    await turns()
    await table.close()
    ended = await asyncio.gather(*callers, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ended)
    assert len(table) == 0


async def test_a_thousand_rounds_leave_nothing(gated: Gated) -> None:
    """However callers come and go, the table is empty when the last flight has landed."""
    table: RequestCollapser[int] = RequestCollapser()
    gated.gate.set()
    for number in range(1000):
        caller = asyncio.create_task(table.join(number % 7, gated.fetch))
        await asyncio.sleep(0)
        if number % 3 == 0:
            caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
    await turns()
    assert len(table) == 0
