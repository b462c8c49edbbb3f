"""Work that no caller waits for: bounded, owned, and awaited when the proxy stops."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

from proxy.errors import ProxyError
from proxy.observability.logging import log_event
from proxy.storage.circuit_breaker import begin_request


class BackgroundTasks:
    """At most *max_tasks* pieces of work at once; what is too many is not done, for nobody depends on it."""

    def __init__(self, max_tasks: int) -> None:
        self._most = max_tasks
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[None, None, None]) -> bool:
        """Begin *work* and return True, or return False where there is too much of it already."""
        if len(self._tasks) >= self._most:
            work.close()
            return False
        task = asyncio.create_task(_run_quietly(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: work.close())  # a task that is cancelled before it began leaves it unbegun
        return True

    async def close(self) -> None:
        """Cancel what is under way and wait until it has ended."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _run_quietly(work: Coroutine[None, None, None]) -> None:
    begin_request()  # it waits for the store on its own account, not on that of the request that it was begun for
    try:
        await work
    except ProxyError as error:
        log_event("background-fetch-failed", code=error.code)
