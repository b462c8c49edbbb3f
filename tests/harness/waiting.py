"""To wait for what another program does in its own time, bounded."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable

_TRIES = 1000
_PAUSE_S = 0.01


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Return once *condition* holds; it is asked again and again, for ten seconds at the most."""
    for _ in range(_TRIES):
        held = condition()
        if await held if inspect.isawaitable(held) else held:
            return
        await asyncio.sleep(_PAUSE_S)
    raise AssertionError("condition: never held")
