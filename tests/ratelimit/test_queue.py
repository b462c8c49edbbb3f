"""The queue before the upstream: who need not wait, and who may not overtake."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry

from proxy.core.call_context import CallContext, Priority
from proxy.errors import RateLimitedError
from proxy.ratelimit.memory_store import MemoryRateLimitStore
from proxy.ratelimit.metrics import RateLimitMetrics
from proxy.ratelimit.queue import CallQueue, Slot
from proxy.ratelimit.sliding_window import Granted, RateLimit, Wait

SOMEBODY = CallContext(caller="a")
LONG_S = 60.0


def queue(
    allowance: RateLimit | None = None, *, most: int = 1, clock: Callable[[], float] = time.monotonic
) -> CallQueue:
    metrics = RateLimitMetrics(CollectorRegistry())
    return CallQueue(
        MemoryRateLimitStore(allowance, hold_s=1.0, clock=clock),
        max_concurrent=most,
        hold_s=1.0,
        clock=clock,
        metrics=metrics,
    )


def at_once(turns: CallQueue, claimant: CallContext = SOMEBODY) -> Slot:
    """Return the turn that is given before anything else runs."""
    asking = turns.acquire("s", claimant, deadline=time.monotonic() + LONG_S)
    with pytest.raises(StopIteration) as given:
        asking.send(None)
    turn = given.value.value
    assert isinstance(turn, Slot)
    return turn


def test_who_need_not_wait_does_not_wait() -> None:
    """Where a call and a permit are free and nobody waits, a turn costs neither a task nor a round of the loop."""
    turns = queue()
    turn = at_once(turns)
    assert turn.has_permit
    assert turns.permits.in_flight == 1
    assert not at_once(turns, CallContext(Priority.WRITE)).has_permit


async def test_a_call_that_is_had_at_once_counts() -> None:
    """The budget's last call is nobody else's, and its permit is given back where there was no call."""
    turns = queue(RateLimit(1, LONG_S), most=9)
    at_once(turns)
    with pytest.raises(RateLimitedError):
        await turns.acquire("s", CallContext(may_wait=False), deadline=time.monotonic() + LONG_S)
    assert turns.permits.in_flight == 1


async def test_a_turn_that_comes_too_late_takes_no_permit_with_it() -> None:
    """Where the process stood still between a grant and its use, another turn is had, and one permit for both."""
    now = time.monotonic()
    turns = queue(clock=lambda: now)
    first = at_once(turns)
    waiting = asyncio.create_task(turns.acquire("s", SOMEBODY, deadline=now + LONG_S))
    await asyncio.sleep(0)
    turns.permits.release()
    turns.release(first)
    async with asyncio.timeout(LONG_S):
        while not turns.permits.in_flight:
            await asyncio.sleep(0)
        now += 1.0
        assert (await waiting).granted_at == now
    assert turns.permits.in_flight == 1


async def test_nobody_overtakes_who_waits() -> None:
    """A permit that is given back is for who waits for it, not for who comes in that moment, of whatever budget."""
    turns = queue()
    first = at_once(turns)
    order: list[str] = []

    async def asks(who: str, scope: str) -> Slot:
        turn = await turns.acquire(scope, CallContext(caller=who), deadline=time.monotonic() + LONG_S)
        order.append(who)
        return turn

    async with asyncio.timeout(LONG_S), asyncio.TaskGroup() as group:
        waiting = group.create_task(asks("waits", "s"))
        for _ in range(9):  # as many rounds of the loop as it takes to stand in line, and some more
            await asyncio.sleep(0)
        late = group.create_task(asks("comes late", "another"))  # which runs before who is woken by the next line
        turns.permits.release()
        turns.release(first)
        turns.release(await waiting)
        turns.permits.release()
        turns.release(await late)
    assert order == ["waits", "comes late"]


async def test_one_call_that_hangs_does_not_turn_callers_away_who_others_make_room_for() -> None:
    """Three of four calls under way end within 50 ms, as ever, while the fourth has hung for a minute."""
    now = 0.0
    turns = queue(most=4, clock=lambda: now)

    async def turn() -> Slot:
        return await turns.acquire("s", SOMEBODY, deadline=now + 10.0)

    async with asyncio.timeout(LONG_S):
        await turn()
        for _ in range(100):
            quick = await turn()
            now += 0.05
            turns.permits.release()
            turns.release(quick)
        now += 60.0
        under_way = [await turn() for _ in range(3)]
        waiting = asyncio.create_task(turn())
        await asyncio.sleep(0)
        assert not waiting.done(), "it waits for its turn"
        turns.permits.release()
        turns.release(under_way[0])
        assert (await waiting).has_permit


class Unknown(MemoryRateLimitStore):
    """Books that can't be reached, so that nobody knows of a call for *unknown_s*; until they *are_back*."""

    def __init__(self, *, unknown_s: float) -> None:
        super().__init__(RateLimit(100, LONG_S), hold_s=1.0, clock=time.monotonic)
        self.unknown_s = unknown_s
        self.are_back = False
        self.asked = asyncio.Event()

    async def take(self, scope: str, priority: Priority) -> Granted | Wait:
        self.asked.set()
        return await super().take(scope, priority) if self.are_back else Wait(self.unknown_s, is_uncertain=True)

    def try_take(self, scope: str, priority: Priority) -> Granted | Wait:
        return self.take_now(scope, priority) if self.are_back else Wait(self.unknown_s, is_uncertain=True)


def before(books: MemoryRateLimitStore, *, clock: Callable[[], float] = time.monotonic) -> CallQueue:
    """Return a queue for what is in *books*."""
    return CallQueue(books, max_concurrent=9, hold_s=1.0, clock=clock, metrics=RateLimitMetrics(CollectorRegistry()))


async def test_who_waits_for_books_that_are_away_is_served_when_they_are_back() -> None:
    """Though a whole window might have to be waited for, and nobody may wait for so long."""
    books = Unknown(unknown_s=10 * LONG_S)
    turns = before(books)
    async with asyncio.timeout(LONG_S):
        waiting = asyncio.create_task(turns.acquire("s", SOMEBODY, deadline=time.monotonic() + LONG_S))
        await books.asked.wait()
        books.are_back = True
        await waiting
        await turns.acquire("s", CallContext(may_wait=False), deadline=time.monotonic() + LONG_S)
    await turns.close()


async def test_books_that_stay_away_refuse_soon_and_say_so_modestly() -> None:
    """Who can't be served in time is told so after a while, and not that it takes a whole window."""
    books, passed_s = Unknown(unknown_s=10 * LONG_S), 0.0
    turns = before(books, clock=lambda: time.monotonic() + passed_s)
    async with asyncio.timeout(LONG_S):
        waiting = asyncio.create_task(turns.acquire("s", SOMEBODY, deadline=time.monotonic() + LONG_S))
        await books.asked.wait()
        passed_s = 3.0
        with pytest.raises(RateLimitedError) as refused:
            await waiting
    assert refused.value.retry_after_s == 5.0
    await turns.close()
