"""Work that no caller waits for ends with its owner."""

from __future__ import annotations

import inspect

from proxy.caching.background import BackgroundTasks


async def test_work_that_never_began_is_ended_too() -> None:
    """Stopped in the same turn of the loop that it was given in, nothing of it is left to complain."""
    begun = False

    async def work() -> None:
        nonlocal begun
        begun = True

    given = work()
    background = BackgroundTasks(1)
    assert background.start(given)
    await background.close()
    assert inspect.getcoroutinestate(given) == inspect.CORO_CLOSED
    assert not begun
    assert len(background) == 0
