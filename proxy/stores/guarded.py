"""A store that can't hold a request up: each call has a time limit, and one that fails is left alone for a while."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from proxy.errors import StoreRefusedError, StoreUnavailableError
from proxy.telemetry import event

Result = TypeVar("Result")

FIRST_PAUSE_S: Final = 0.25
LONGEST_PAUSE_S: Final = 5.0


class Guard:
    """Limits calls to *timeout_s*, and makes none while the store is taken to be away.

    After a failure, a time-out among them, no call is made until a pause has passed, which doubles with each
    further failure; the first call after it is the probe, and others don't wait for how it ends. *clock* never steps
    back. *failed* is told the name of the operation. The log is told of a store that failed twice in a row, and when it
    is back: one call that took too long is no outage, and is counted all the same.
    """

    def __init__(self, *, timeout_s: float, clock: Callable[[], float], failed: Callable[[str], None]) -> None:
        self._timeout_s = timeout_s
        self._clock = clock
        self._failed = failed
        self._pause_s = FIRST_PAUSE_S
        self._left_alone_until = 0.0
        self._away = False

    @property
    def asks(self) -> bool:
        """Whether a call would be made now: the store is not being left alone."""
        return self._clock() >= self._left_alone_until

    @property
    def well(self) -> bool:
        """Whether the latest call that was made succeeded."""
        return not self._left_alone_until

    async def call(
        self, operation: str, call: Callable[[], Awaitable[Result]], *, timeout_s: float | None = None
    ) -> Result:
        """Return what *call* returns.

        Raises `StoreUnavailableError` where it fails, takes too long, or is not made.
        """
        if not self.asks:
            raise StoreUnavailableError("store: left alone after it failed")
        if self._left_alone_until:
            self._left_alone_until = self._clock() + self._pause_s  # this call is the probe
        try:
            async with asyncio.timeout(timeout_s or self._timeout_s):
                result = await call()
        except StoreRefusedError:
            self._failed(operation)
            raise
        except (StoreUnavailableError, TimeoutError) as error:
            self._failed(operation)
            self._left_alone_until = self._clock() + self._pause_s
            if self._pause_s > FIRST_PAUSE_S and not self._away:
                self._away = True
                reason = str(error) or "no answer in time"
                event("store-away", level=logging.WARNING, operation=operation, reason=reason)
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            raise StoreUnavailableError(f"store: {operation} failed") from error
        self._left_alone_until, self._pause_s = 0.0, FIRST_PAUSE_S
        if self._away:
            self._away = False
            event("store-back", operation=operation)
        return result
