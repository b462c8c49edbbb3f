"""Ending tasks that run a client which may swallow a cancellation.

redis-py waits with `asyncio.wait_for`, which on Python 3.11 loses a cancellation that arrives as the wait ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

_AGAIN_S: Final = 0.2
_MOST: Final = 25


async def ended(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel *tasks* until each has ended, for 5 s at the most."""
    left = {task for task in tasks if not task.done()}
    for _ in range(_MOST):
        if not left:
            return
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_AGAIN_S)
