"""Fetches that no caller waits for: bounded, owned, awaited at shutdown, and skipped while the budget is low."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from proxy.core.values import immutable
from proxy.errors import ProxyError
from proxy.observability.logging import log_event
from proxy.storage.circuit_breaker import begin_request


class BackgroundTasks:
    """Runs at most *max_tasks* coroutines at once; more are dropped, for nobody depends on them."""

    def __init__(self, max_tasks: int) -> None:
        self._max_tasks = max_tasks
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[None, None, None]) -> bool:
        """Start *work* and return True, or drop it and return False if too many tasks run already."""
        if len(self._tasks) >= self._max_tasks:
            work.close()
            return False
        task = asyncio.create_task(_run_quietly(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: work.close())  # a task cancelled before its first step never started it
        return True

    async def close(self) -> None:
        """Cancel all tasks and wait until they have ended."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _run_quietly(work: Coroutine[None, None, None]) -> None:
    begin_request()  # its waits for storage must not count against the request that started it
    try:
        await work
    except ProxyError as error:
        log_event("background_fetch_failed", code=error.code)


@immutable
class BudgetSaver:
    """Skips background fetches while the upstream budget is low.

    *is_low* takes a partition's digest; *on_skipped* is called with the purpose of each fetch that was skipped.
    """

    is_low: Callable[[str], bool] = lambda _: False
    on_skipped: Callable[[str], None] = lambda _: None

    def skips(self, purpose: str, partition: str) -> bool:
        """Return whether a fetch for *purpose* must be skipped now, and count it if so."""
        if not self.is_low(partition):
            return False
        self.on_skipped(purpose)
        return True
