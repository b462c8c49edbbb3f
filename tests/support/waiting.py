"""To wait for what another program does in its own time, bounded."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable

WITHIN_S = 60.0  # only what never comes takes as long: machines stand still for seconds, and not for a minute
_PAUSE_S = 0.01


async def until(condition: Callable[[], bool | Awaitable[bool]], *, within_s: float = WITHIN_S) -> None:
    """Return once *condition* holds; it is asked again and again, for *within_s* at the most."""
    try:
        async with asyncio.timeout(within_s):
            while True:
                held = condition()
                if await held if inspect.isawaitable(held) else held:
                    return
                await asyncio.sleep(_PAUSE_S)
    except TimeoutError:
        raise AssertionError(f"condition: did not hold within {within_s:g}s") from None
