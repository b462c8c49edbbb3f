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

from proxy.core.cache_key import ListingKey
from proxy.errors import StoreUnavailableError
from proxy.observability.event_loop import ended
from proxy.storage.base import Claim
from proxy.storage.redis_pipeline import Word
from proxy.storage.redis_scripts import UNUSED_MS, Commands, evaluating

LOCK_MS: Final = 5_000
RENEW_S: Final = 0.2
SILENT_S: Final = 0.8
POLL_S: Final = 0.1  # how often a waiter asks whether it may have the lock
_MOST_LATE_MS: Final = 3_000
_RENEWAL_S: Final = 2.0  # the longest wait for Redis to renew


class FetchLocks:
    """The locks that this replica holds, renewed together by one task, and the way to those of others."""

    def __init__(self, commands: Commands) -> None:
        self.lag_s: Callable[[], float] = lambda: 0.0  # how late this process has lately been
        self._commands = commands
        self._names = commands.names
        self._held: dict[tuple[str, str], tuple[str, int]] = {}  # (listing, marker) -> (name in Redis, fence)
        self._renewing: asyncio.Task[None] | None = None

    async def acquire(self, key: ListingKey, after: str, *, now: float) -> Claim:
        """Take the lock if it is free or its holder is silent; it is then renewed until it is released.

        Scopes without a generation are given one, so that no span is fetched under none: Redis may evict a generation,
        and what was fetched before must not look current again.
        """
        names = [self._names.claim(key, after), self._names.claims(key), self._names.spans(key) + after]
        words = [self._lives_ms(), UNUSED_MS, LOCK_MS - int(SILENT_S * 1000)]
        state, (fence, there) = await self._commands.stated(key, "claim", names, words, now=now)
        if not fence:
            return Claim(state, None)
        self._held[key.digest, after] = (names[0], fence)
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._renew())
        return Claim(state, fence, there=bool(there))

    async def release(self, key: ListingKey, after: str, claim: Claim) -> None:
        """Give the lock back, if it is still held, and wake its waiters."""
        if claim.fence:
            self.abandon(key, after, claim.fence)
            words = self._releasing(key.digest, after, claim.fence)
            await self._commands.send([evaluating("settle", [self._names.claim(key, after)], words)], len)

    def abandon(self, key: ListingKey, after: str, fence: int | None = None) -> None:
        """Renew the lock no more: others may take it over soon. With a *fence*, only that lock."""
        held = self._held.get((key.digest, after))
        if held is not None and fence in (None, held[1]):
            del self._held[key.digest, after]

    async def wait(self, timeout_s: float) -> None:
        """Wait before the lock is asked for again: without a channel nobody tells when it is released."""
        await asyncio.sleep(min(timeout_s, POLL_S))

    async def close(self) -> None:
        """Renew nothing any more."""
        self._held.clear()
        if self._renewing is not None:
            await ended([self._renewing])

    def _releasing(self, listing: str, after: str, fence: int) -> list[Word]:
        return [fence, 0, self._names.channel, self._names.woken(listing, after)]

    def _lives_ms(self) -> int:
        """Return for how long to ask for a lock: a holder that is late itself is given more time to renew it."""
        return LOCK_MS + min(_MOST_LATE_MS, int(3000 * self.lag_s()))

    async def _renew(self) -> None:
        """Renew all locks that are held; a renewal that fails is tried again long before they expire."""
        while self._held:
            await asyncio.sleep(RENEW_S)
            held = list(self._held.items())
            if not held:
                return
            with suppress(StoreUnavailableError, TimeoutError):
                async with asyncio.timeout(_RENEWAL_S):
                    await self._renew_all(held)

    async def _renew_all(self, held: list[tuple[tuple[str, str], tuple[str, int]]]) -> None:
        renewing = [evaluating("settle", [name], [fence, self._lives_ms(), "", ""]) for _, (name, fence) in held]
        renewed = await self._commands.send(renewing, list, needed=0)
        for (at, lock), kept in zip(held, renewed, strict=True):
            if kept == 0 and self._held.get(at) == lock:
                del self._held[at]
                # Redis has lost it, or gave it to another. Who still waits for this replica asks anew.
                async with self._commands.translated() as redis:
                    await redis.publish(self._names.channel, self._names.woken(*at))
