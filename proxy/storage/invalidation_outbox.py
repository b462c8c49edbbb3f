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
from proxy.observability.event_loop import cancel_and_wait
from proxy.observability.logging import log_event

_FIRST_PAUSE_S: Final = 0.05
_MAX_PAUSE_S: Final = 2.0


@dataclass(frozen=True, slots=True, order=True)
class PendingChanges:
    """*until* when lists are unsettled, epoch seconds, and for how long from the write on; by default they are not."""

    until: float = 0.0
    for_s: float = 0.0


# Tells scopes; raises `StoreUnavailableError`.
PublishTags = Callable[[Mapping[str, PendingChanges]], Awaitable[None]]


class InvalidationOutbox:
    """What is owed, and the task that pays it. *publish* has a time limit of its own."""

    def __init__(self, publish: PublishTags) -> None:
        self._publish = publish
        self._unpublished: dict[str, PendingChanges] = {}  # since the round that is being told began
        self._publishing: dict[str, PendingChanges] = {}
        self._round = asyncio.Event()  # set when what is owed now has been told
        self._retry_now = asyncio.Event()
        self._failing = False
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    def __bool__(self) -> bool:
        return bool(self._unpublished or self._publishing)

    async def add(self, tags: Sequence[str], *, pending: PendingChanges, wait_s: float) -> None:
        """Tell of *tags*, and return when that is done, or after *wait_s*; it then goes on in the background."""
        for scope in tags:
            self._unpublished[scope] = max(pending, self._unpublished.get(scope, PendingChanges()))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        self.retry_now()
        await _wait_for(self._round, wait_s)

    def retry_now(self) -> None:
        """Try again now what failed before."""
        self._retry_now.set()

    async def wait_until_published(self, *, wait_s: float) -> None:
        """Return when nothing is owed.

        Raises `StoreUnavailableError` where that takes longer than *wait_s*, and at once while it fails.
        """
        if self and not self._failing:
            await _wait_for(self._round, wait_s)
        if self:
            raise StoreUnavailableError("store: has not been told of a write yet")

    async def close(self) -> None:
        """Stop trying."""
        self._closing = True
        if self._task is not None:
            await cancel_and_wait([self._task])

    async def _run(self) -> None:
        while self._unpublished and not self._closing:
            self._publishing, self._unpublished = self._unpublished, {}
            told, self._round = self._round, asyncio.Event()
            await self._publish_round()
            told.set()
        if not self._closing:
            self._round.set()
            self._round = asyncio.Event()

    async def _publish_round(self) -> None:
        """Tell of this round until that succeeds, or the debts are closed."""
        pause_s = _FIRST_PAUSE_S
        while not self._closing:
            self._retry_now.clear()
            try:
                await self._publish(self._publishing)
            except Exception as error:  # noqa: BLE001 - whatever it is, the others have yet to be told
                if not isinstance(error, (StoreUnavailableError, TimeoutError)):
                    log_event(
                        "store_reply_not_understood",
                        level=logging.ERROR,
                        operation="tell",
                        error=type(error).__name__,
                    )
                self._failing = True
                await _wait_for(self._retry_now, pause_s)
                pause_s = min(2 * pause_s, _MAX_PAUSE_S)
                continue
            self._publishing, self._failing = {}, False
            return


async def _wait_for(event: asyncio.Event, wait_s: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            await event.wait()
