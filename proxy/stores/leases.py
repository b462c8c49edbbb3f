"""Claims on spans in Redis: one owner at a time, renewed while it works, free again soon after it died."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from proxy.core.keys import ListingKey
from proxy.errors import StoreUnavailableError
from proxy.stores.base import Claim
from proxy.stores.commands import UNUSED_MS, Commands
from proxy.stores.ending import ended
from proxy.stores.lane import Word

_CLAIM_MS: Final = 5_000


class Leases:
    """The claims of this replica, and how those of others stand."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands
        self._names = commands.names
        self._renewals: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()  # a task may take more than one cancellation to end, see `ended`

    async def claim(self, key: ListingKey, after: str, *, now: float) -> Claim:
        """See `SpanStore.claim`. A claim is renewed until it is settled; that of an owner that died lapses.

        Scopes without a generation are given one, so that no span is fetched under none: Redis may evict a generation,
        and what was fetched before must not look current again.
        """
        names = [self._names.claim(key, after), self._names.claims(key), self._names.spans(key) + after]
        words = [_CLAIM_MS, UNUSED_MS]
        state, (fence, there) = await self._commands.stated(key, "claim", names, words, now=now)
        if not fence:
            return Claim(state, None)
        self.let_go(key, after)
        at = (key.digest, after)
        self._renewals[at] = asyncio.create_task(self._renewed(names[0], fence))
        return Claim(state, fence, there=bool(there))

    async def settle(self, key: ListingKey, after: str, claim: Claim) -> None:
        """See `SpanStore.settle`."""
        self.let_go(key, after)
        if claim.fence:
            words: list[Word] = [claim.fence, 0, self._names.channel, self._names.woken(key.digest, after)]
            await self._commands.run("settle", [self._names.claim(key, after)], words)

    def let_go(self, key: ListingKey, after: str) -> None:
        """Renew the claim no more; then it lapses by itself."""
        renewal = self._renewals.pop((key.digest, after), None)
        if renewal is not None:
            self._ending.add(renewal)
            renewal.add_done_callback(self._ending.discard)
            renewal.cancel()

    async def settled(self, key: ListingKey, after: str, *, timeout_s: float) -> None:
        """See `SpanStore.settled`: without a channel, the time that the claim has left."""
        async with self._commands.translated() as redis:
            left_ms = await redis.pttl(self._names.claim(key, after))
        if left_ms > 0:
            await asyncio.sleep(min(timeout_s, left_ms / 1000))

    async def held(self, key: ListingKey, after: str) -> bool:
        """Return whether somebody holds the claim on the span after *after*."""
        async with self._commands.translated() as redis:
            return bool(await redis.exists(self._names.claim(key, after)))

    async def close(self) -> None:
        """Renew nothing any more."""
        await ended([*self._renewals.values(), *self._ending])

    async def _renewed(self, name: str, fence: int) -> None:
        """Hold the claim until cancelled, or until it is lost; a renewal that fails is tried again before it lapses."""
        while True:
            await asyncio.sleep(_CLAIM_MS / 4000)
            with suppress(StoreUnavailableError, TimeoutError):
                async with asyncio.timeout(_CLAIM_MS / 4000):
                    if not await self._commands.run("settle", [name], [fence, _CLAIM_MS, "", ""]):
                        return
