"""The event loop's own delay: it is measured, and it is never taken for somebody else's silence."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from proxy.core.slices import Steps
from proxy.observability.event_loop import TICK_S, LoopClock, run_in_slices, run_in_thread

LIMIT_S = 0.1


@pytest.fixture
async def loop_clock() -> AsyncIterator[LoopClock]:
    clock = LoopClock()
    clock.start()
    yield clock
    clock.stop()


async def test_blocked_loop_does_not_count_against_a_wait(loop_clock: LoopClock) -> None:
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(LIMIT_S / 2, answer.set_result, None)
    waiting = asyncio.create_task(loop_clock.wait(answer, LIMIT_S))
    await asyncio.sleep(0)
    time.sleep(3 * LIMIT_S)  # noqa: ASYNC251 - that the loop stands still is what is tested
    assert await waiting


async def test_silence_ends_a_wait_and_leaves_the_future_alone(loop_clock: LoopClock) -> None:
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    assert not await loop_clock.wait(answer, LIMIT_S)
    assert not answer.done()


async def test_future_that_is_done_needs_no_time(loop_clock: LoopClock) -> None:
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    answer.set_result(None)
    assert await loop_clock.wait(answer, 0.0)


async def test_lag_shows_how_long_the_loop_stood_still(loop_clock: LoopClock) -> None:
    await asyncio.sleep(TICK_S)
    heard_s = loop_clock.responsive_s
    time.sleep(LIMIT_S)  # noqa: ASYNC251 - that the loop stands still is what is tested
    assert loop_clock.lag_s >= LIMIT_S - 2 * TICK_S
    assert loop_clock.responsive_s - heard_s <= 3 * TICK_S
    await asyncio.sleep(2 * TICK_S)
    assert loop_clock.lag_s >= LIMIT_S - 2 * TICK_S  # it is remembered for a while


async def test_each_tick_is_observed() -> None:
    seen = asyncio.Event()
    clock = LoopClock(observe=lambda _: seen.set())
    clock.start()
    try:
        async with asyncio.timeout(60):
            await seen.wait()
    finally:
        clock.stop()


async def test_short_work_does_not_wait_behind_a_queue_of_long_work() -> None:
    """While every default thread of the loop compresses pages, a reply of Redis is read all the same."""
    done = threading.Event()
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))
    compressing = [asyncio.create_task(asyncio.to_thread(done.wait, 60)) for _ in range(3)]
    try:
        async with asyncio.timeout(30):
            thread = await run_in_thread(threading.current_thread)
    finally:
        done.set()
        await asyncio.gather(*compressing)
    assert thread is not threading.current_thread()


async def test_work_in_slices_lets_the_loop_turn_between_them() -> None:
    """What was due runs between two slices, and the result comes at the end."""
    order: list[str] = []

    def steps() -> Steps[int]:
        for number in range(3):
            order.append(f"slice {number}")
            yield
        return 7

    async def another() -> None:
        for _ in range(2):
            order.append("another")
            await asyncio.sleep(0)

    task = asyncio.create_task(another())
    assert await run_in_slices(steps()) == 7
    await task
    assert order == ["slice 0", "another", "slice 1", "another", "slice 2"]
