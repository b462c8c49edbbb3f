"""Invalidations that Redis and the other replicas have yet to be told of.

A debt is recorded before anything is awaited, so it survives a caller that hangs up. It is tried again, with growing
pauses, until it is paid, whatever is raised meanwhile: other replicas may reach Redis while this one can't, and don't
know of the write.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from proxy.errors import StoreUnavailableError
from proxy.observability.event_loop import ended
from proxy.observability.logging import event

_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 2.0


@dataclass(frozen=True, slots=True, order=True)
class Unsettled:
    """*until* when lists are unsettled, epoch seconds, and for how long from the write on; by default they are not."""

    until: float = 0.0
    for_s: float = 0.0


# Tells scopes; raises `StoreUnavailableError`.
Told = Callable[[Mapping[str, Unsettled]], Awaitable[None]]


class Debts:
    """What is owed, and the task that pays it. *told* has a time limit of its own."""

    def __init__(self, told: Told) -> None:
        self._told = told
        self._owed: dict[str, Unsettled] = {}  # since the round that is being told began
        self._telling: dict[str, Unsettled] = {}
        self._round = asyncio.Event()  # set when what is owed now has been told
        self._hurry = asyncio.Event()
        self._failing = False
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    def __bool__(self) -> bool:
        return bool(self._owed or self._telling)

    async def owe(self, scopes: Sequence[str], *, unsettled: Unsettled, wait_s: float) -> None:
        """Tell of *scopes*, and return when that is done, or after *wait_s*; it then goes on in the background."""
        for scope in scopes:
            self._owed[scope] = max(unsettled, self._owed.get(scope, Unsettled()))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._pay())
        self.hurry()
        await _waited(self._round, wait_s)

    def hurry(self) -> None:
        """Try again now what failed before."""
        self._hurry.set()

    async def paid(self, *, wait_s: float) -> None:
        """Return when nothing is owed.

        Raises `StoreUnavailableError` where that takes longer than *wait_s*, and at once while it fails.
        """
        if self and not self._failing:
            await _waited(self._round, wait_s)
        if self:
            raise StoreUnavailableError("store: has not been told of a write yet")

    async def close(self) -> None:
        """Stop trying."""
        self._closing = True
        if self._task is not None:
            await ended([self._task])

    async def _pay(self) -> None:
        while self._owed and not self._closing:
            self._telling, self._owed = self._owed, {}
            told, self._round = self._round, asyncio.Event()
            await self._tell()
            told.set()
        if not self._closing:
            self._round.set()
            self._round = asyncio.Event()

    async def _tell(self) -> None:
        """Tell of this round until that succeeds, or the debts are closed."""
        pause_s = _FIRST_PAUSE_S
        while not self._closing:
            self._hurry.clear()
            try:
                await self._told(self._telling)
            except Exception as error:  # noqa: BLE001 - whatever it is, the others have yet to be told
                if not isinstance(error, (StoreUnavailableError, TimeoutError)):
                    event(
                        "store_reply_not_understood",
                        level=logging.ERROR,
                        operation="tell",
                        error=type(error).__name__,
                    )
                self._failing = True
                await _waited(self._hurry, pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                continue
            self._telling, self._failing = {}, False
            return


async def _waited(event: asyncio.Event, wait_s: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            await event.wait()
