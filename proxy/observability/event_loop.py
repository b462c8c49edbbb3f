"""The event loop's own delay: measured, so that it is never taken for somebody else's silence, and kept short.

A wait of 250 ms by the clock says nothing about a server if this process stood still for 240 of them: the answer may
have arrived long ago and not have been read. `LoopClock.responsive_s` counts only time in which the loop turned, and so
could hear.

`cancel_and_wait` is for tasks whose client may swallow a cancellation: redis-py waits with `asyncio.wait_for`, which on
Python 3.11 loses a cancellation that arrives as the wait ends.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

Result = TypeVar("Result")

TICK_S: Final = 0.02
_MIN_TICK_S: Final = 0.004  # what a tick counts for however late it is
_LATE_PENALTY: Final = 3.0  # by how much a late tick counts for less than its lag
_RECENT_S: Final = 10.0
_THREADS: Final = ThreadPoolExecutor(2, thread_name_prefix="short-work")


async def run_in_slices(steps: Generator[None, None, Result]) -> Result:
    """Run *steps* to their end, let the loop turn wherever they yield, and return their result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result
        await asyncio.sleep(0)


async def run_in_thread(work: Callable[[], Result]) -> Result:
    """Return what *work* returns: some milliseconds of hashing, decompression or encryption.

    It has threads of its own. In the loop's default ones it would wait behind pages that are being compressed, and a
    reply of Redis that waits so long would pass for silence.
    """
    return await asyncio.get_running_loop().run_in_executor(_THREADS, work)


class LoopClock:
    """Counts the time in which the event loop listens, and how late it is.

    A timer is due every `TICK_S`, and counts for so long less three times what it is late. A reply that has arrived is
    taken step by step, one a turn of the loop, so while turns are long a tick counts for little. *observe* is told the
    lag at each tick, seconds.
    """

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, observe: Callable[[float], None] = lambda _: None
    ) -> None:
        self._clock = clock
        self._observe = observe
        self._responsive_s = 0.0
        self._ticked_at = clock()
        self._timer: asyncio.TimerHandle | None = None
        self._recent: deque[tuple[float, float]] = deque()  # falling lags with the times they were seen at

    @property
    def responsive_s(self) -> float:
        """Time so far in which the loop could hear, seconds. It never steps back, and stands while the loop does."""
        return self._responsive_s + min(_MIN_TICK_S, self._clock() - self._ticked_at)

    @property
    def lag_s(self) -> float:
        """The longest that the loop has been late within the last 10 s, seconds; the tick that is overdue included."""
        now = self._clock()
        while self._recent and now - self._recent[0][0] > _RECENT_S:
            self._recent.popleft()
        overdue_s = max(0.0, now - self._ticked_at - TICK_S) if self._timer else 0.0
        return max(self._recent[0][1] if self._recent else 0.0, overdue_s)

    def start(self) -> None:
        """Begin to tick on the running loop."""
        if self._timer is None:
            self._ticked_at = self._clock()
            self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def stop(self) -> None:
        """Tick no more; the next `wait` starts it anew."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def wait(self, future: asyncio.Future[Any], timeout_s: float) -> bool:
        """Wait until *future* is done, for *timeout_s* of heard time at most, and return whether it is.

        The future is not cancelled, neither when the time has passed nor when the caller is cancelled.
        """
        self.start()
        until = self.responsive_s + timeout_s
        while not future.done():
            left_s = until - self.responsive_s
            if left_s <= 0:
                return False
            # What is left by this clock is at least as long by the other.
            await asyncio.wait([future], timeout=max(left_s, TICK_S))
        return True

    def _tick(self) -> None:
        now = self._clock()
        passed_s = now - self._ticked_at
        self._responsive_s += _credited_s(passed_s)
        self._ticked_at = now
        lag_s = max(0.0, passed_s - TICK_S)
        while self._recent and self._recent[-1][1] <= lag_s:
            self._recent.pop()
        self._recent.append((now, lag_s))
        self._observe(lag_s)
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)


def _credited_s(passed_s: float) -> float:
    """Return what *passed_s* since the latest tick count for."""
    if passed_s <= TICK_S:
        return passed_s
    return max(_MIN_TICK_S, TICK_S - _LATE_PENALTY * (passed_s - TICK_S))


_RETRY_S: Final = 0.2
_MAX_TRIES: Final = 25


async def cancel_and_wait(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel *tasks* until each has ended, for 5 s at the most."""
    left = {task for task in tasks if not task.done()}
    for _ in range(_MAX_TRIES):
        if not left:
            return
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_RETRY_S)
