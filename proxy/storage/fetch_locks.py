"""Fetch locks in Redis: one replica at a time fetches the span after a marker.

A lock says that its holder works by being renewed every `RENEW_S`. One that was not renewed for `SILENT_S` may be taken
over: its holder died, stands still, or has lost Redis. So a waiter needs no channel to notice, and waits no longer than
that. The lock itself lives for much longer: a holder that is late for a second keeps it as long as nobody else asks,
and one that has lately been late asks for more time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from proxy.core.cache_key import CacheKey
from proxy.errors import StoreUnavailableError
from proxy.observability.event_loop import cancel_and_wait
from proxy.storage.base import FetchLock
from proxy.storage.redis_pipeline import Word
from proxy.storage.redis_scripts import UNUSED_MS, RedisCommands, eval_command

LOCK_MS: Final = 5_000
RENEW_S: Final = 0.2
SILENT_S: Final = 0.8
POLL_S: Final = 0.1  # how often a waiter asks whether it may have the lock
_MAX_EXTRA_MS: Final = 3_000
_RENEW_TIMEOUT_S: Final = 2.0  # the longest wait for Redis to renew


class FetchLocks:
    """The locks that this replica holds, renewed together by one task, and the way to those of others."""

    def __init__(self, commands: RedisCommands) -> None:
        self.lag_s: Callable[[], float] = lambda: 0.0  # how late this process has lately been
        self._commands = commands
        self._names = commands.names
        self._held: dict[tuple[str, str], tuple[str, int]] = {}  # (listing, marker) -> (name in Redis, fence)
        self._renewing: asyncio.Task[None] | None = None

    async def acquire(self, key: CacheKey, marker: str, *, now: float) -> FetchLock:
        """Take the lock if it is free or its holder is silent; it is then renewed until it is released.

        Scopes without a generation are given one, so that no span is fetched under none: Redis may evict a generation,
        and what was fetched before must not look current again.
        """
        names = [
            self._names.fetch_lock(key, marker),
            self._names.fetch_lock_counter(key),
            self._names.spans(key) + marker,
        ]
        words = [self._lifetime_ms(), UNUSED_MS, LOCK_MS - int(SILENT_S * 1000)]
        state, (fence, there) = await self._commands.run_with_state(key, "claim", names, words, now=now)
        if not fence:
            return FetchLock(state, None)
        self._held[key.digest, marker] = (names[0], fence)
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._renew())
        return FetchLock(state, fence, is_stored=bool(there))

    async def release(self, key: CacheKey, marker: str, lock: FetchLock) -> None:
        """Give the lock back, if it is still held, and wake its waiters."""
        if lock.fence:
            self.abandon(key, marker, lock.fence)
            words = self._release_arguments(key.digest, marker, lock.fence)
            await self._commands.send([eval_command("settle", [self._names.fetch_lock(key, marker)], words)], len)

    def abandon(self, key: CacheKey, marker: str, fence: int | None = None) -> None:
        """Renew the lock no more: others may take it over soon. With a *fence*, only that lock."""
        held = self._held.get((key.digest, marker))
        if held is not None and fence in (None, held[1]):
            del self._held[key.digest, marker]

    async def wait(self, timeout_s: float) -> None:
        """Wait before the lock is asked for again: without a channel nobody tells when it is released."""
        await asyncio.sleep(min(timeout_s, POLL_S))

    async def close(self) -> None:
        """Renew nothing any more."""
        self._held.clear()
        if self._renewing is not None:
            await cancel_and_wait([self._renewing])

    def _release_arguments(self, listing: str, marker: str, fence: int) -> list[Word]:
        return [fence, 0, self._names.channel, self._names.wake_message(listing, marker)]

    def _lifetime_ms(self) -> int:
        """Return for how long to ask for a lock: a holder that is late itself is given more time to renew it."""
        return LOCK_MS + min(_MAX_EXTRA_MS, int(3000 * self.lag_s()))

    async def _renew(self) -> None:
        """Renew all locks that are held; a renewal that fails is tried again long before they expire."""
        while self._held:
            await asyncio.sleep(RENEW_S)
            held = list(self._held.items())
            if not held:
                return
            with suppress(StoreUnavailableError, TimeoutError):
                async with asyncio.timeout(_RENEW_TIMEOUT_S):
                    await self._renew_all(held)

    async def _renew_all(self, held: list[tuple[tuple[str, str], tuple[str, int]]]) -> None:
        renewing = [eval_command("settle", [name], [fence, self._lifetime_ms(), "", ""]) for _, (name, fence) in held]
        renewed = await self._commands.send(renewing, list, needed=0)
        for (at, lock), kept in zip(held, renewed, strict=True):
            if kept == 0 and self._held.get(at) == lock:
                del self._held[at]
                # Redis has lost it, or gave it to another. Who still waits for this replica asks anew.
                async with self._commands.translate_errors() as redis:
                    await redis.publish(self._names.channel, self._names.wake_message(*at))
