"""Process memory before Redis.

Memory is believed while the channel is, for then every invalidation arrives before its write is answered. While the
channel is down, a span in memory is believed only for as long as a writer waits for replicas that it can't reach.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeVar

from proxy.core.freshness import current_age
from proxy.core.keys import ListingKey
from proxy.core.listing import Mark, Piece, Span
from proxy.errors import StoreUnavailableError
from proxy.stores.base import Claim, Found, Health
from proxy.stores.channel import Channel
from proxy.stores.debts import Debts, Unsettled
from proxy.stores.generations import Generations
from proxy.stores.guarded import Guard
from proxy.stores.memory import MemoryStore
from proxy.stores.redis import RedisStore

Result = TypeVar("Result")

_TELL_S: Final = 2.0


class TieredStore:
    """A `SpanStore`: *near* before *far*. *near_ttl_s* is how long memory is believed without the channel, seconds,
    *stale_s* how long a span is of use after its lifetime, *timeout_s* the longest wait for Redis.

    *failed* is told the name of each operation that fails in Redis; *heard* the scopes that any replica
    invalidated, or None once such news may have been missed. `StoreUnavailableError` is raised only where memory
    can't stand in for Redis.
    """

    def __init__(
        self,
        near: MemoryStore,
        far: RedisStore,
        *,
        near_ttl_s: float,
        stale_s: float,
        timeout_s: float,
        failed: Callable[[str], None],
        heard: Callable[[Iterable[str] | None], None] = lambda _: None,
    ) -> None:
        self._near = near
        self._far = far
        self._near_ttl_s = near_ttl_s
        self._stale_s = stale_s
        self._timeout_s = timeout_s
        self._guard = Guard(timeout_s=timeout_s, clock=time.monotonic, failed=failed)
        self._channel = Channel(far, trust_s=near_ttl_s, apply=self._apply, lost=self._lost)
        self._generations = Generations(near)
        self._debts = Debts(self._told)
        self._pass_on = heard

    def start(self) -> None:
        """Begin to listen to other replicas."""
        self._channel.start()

    @property
    def epoch(self) -> int | None:
        """See `SpanStore.epoch`."""
        return self._generations.news + self._near.epoch if self._channel.trusted else None

    @property
    def stored_bytes(self) -> int:
        """See `SpanStore.stored_bytes`."""
        return self._near.stored_bytes

    def health(self) -> Health:
        """See `SpanStore.health`."""
        parts = {
            "redis": "ok" if self._guard.well else "failed when it was asked last",
            "channel": "ok" if self.channel_up else "down, what other replicas change is not heard",
        }
        return replace(self._near.health(), parts={"memory": "ok"} | parts, replicas=len(self._channel.peers))

    @property
    def channel_up(self) -> bool:
        """Whether invalidations of other replicas arrive."""
        return self._channel.trusted

    @property
    def far(self) -> RedisStore:
        """The store in Redis."""
        return self._far

    @property
    def channel(self) -> Channel:
        """What this replica hears of the others by."""
        return self._channel

    async def chain(self, key: ListingKey, after: str, count: int, *, joinable: bool = True, now: float) -> Found:
        """See `SpanStore.chain`: from memory where it has all of the window, fresh."""
        near = self._near.chain_now(key, after, count, joinable=joinable, now=now)
        if _suffices(near, count, now=now) and (self._believes_memory_of(key) or self._just_fetched(near, now=now)):
            return near
        asked_at = self._generations.news
        try:
            far = await self._believed("chain", lambda: self._far.chain(key, after, count, joinable=joinable, now=now))
        except StoreUnavailableError:
            # News of other replicas' writes don't arrive now, but each writer waits for `near_ttl_s` before it is
            # answered. So a fetch may be joined if it began within that time, and memory may be used if it was filled
            # within it.
            doubt = f"~{now // self._near_ttl_s:.0f}"
            pieces = near.pieces if self._just_fetched(near, now=now) else ()
            return Found(pieces, near.state, near.behind, doubt)
        self._generations.learn(key, far.state.generation, asked_at=asked_at)
        for piece in far.pieces:
            if piece.span.generation == far.state.generation:
                left_s = piece.span.lifetime_s - current_age(piece.span.fetched_at, now=now)
                self._near.put_now(key, piece.span, keep_s=left_s + self._stale_s, now=now)
        return far

    async def bodies(self, key: ListingKey, marks: Sequence[Mark], *, now: float) -> Sequence[bytes] | None:
        """See `SpanStore.bodies`: from Redis, for only a proxy whose memory keeps no bodies asks for them."""
        return await self._believed("bodies", lambda: self._far.bodies(key, marks, now=now))

    async def holding(self, key: ListingKey, image_id: str, *, now: float) -> Piece | None:
        """See `SpanStore.holding`."""
        near = await self._near.holding(key, image_id, now=now)
        return near or await self._guard.call("holding", lambda: self._far.holding(key, image_id, now=now))

    async def claim(self, key: ListingKey, after: str, *, now: float) -> Claim:
        """See `SpanStore.claim`. Without Redis every replica is on its own."""
        asked_at = self._generations.news
        try:
            claim = await self._believed("claim", lambda: self._far.claim(key, after, now=now))
        except StoreUnavailableError:
            self._far.leases.let_go(key, after)
            return Claim(self._near.state(key, now=now), 0)
        self._generations.learn(key, claim.state.generation, asked_at=asked_at)
        return claim

    async def settle(self, key: ListingKey, after: str, claim: Claim) -> None:
        """See `SpanStore.settle`."""
        if claim.fence:
            self._far.leases.let_go(key, after)
            await self._guard.call("settle", lambda: self._far.settle(key, after, claim))

    async def settled(self, key: ListingKey, after: str, *, timeout_s: float) -> None:
        """See `SpanStore.settled`: woken by the channel where there is one."""
        if self._channel.trusted:
            message = self._far.names.woken(key.digest, after)
            await self._channel.woken(message, held=lambda: self._held(key, after), timeout_s=timeout_s)
        else:
            await self._guard.call(
                "settled", lambda: self._far.settled(key, after, timeout_s=timeout_s), timeout_s=timeout_s + 1
            )

    async def put(self, key: ListingKey, span: Span, *, keep_s: float, now: float, fence: int = 0) -> None:
        """See `SpanStore.put`."""
        self._near.put_now(key, span, keep_s=keep_s, now=now)
        await self._guard.call("put", lambda: self._far.put(key, span, keep_s=keep_s, now=now, fence=fence))

    def used(self, key: ListingKey, starts: Sequence[str]) -> None:
        """See `SpanStore.used`: what is in memory; Redis has its own way."""
        self._near.used(key, starts)

    async def invalidate(self, scopes: Sequence[str], *, unsettled_s: float = 0.0, now: float) -> None:
        """See `SpanStore.invalidate`.

        Where Redis can't be reached, this waits until no replica that can't reach it either believes its memory.
        Redis is told as soon as it can be, and before it is asked again.
        """
        await self._near.invalidate(scopes, unsettled_s=unsettled_s, now=now)
        self._generations.written(scopes)
        unsettled = Unsettled(now + unsettled_s, unsettled_s) if unsettled_s else Unsettled()
        await self._debts.owe(scopes, unsettled=unsettled, wait_s=self._near_ttl_s + self._timeout_s)

    async def count(self, scope: str, *, now: float) -> int:
        """See `SpanStore.count`."""
        return await self._guard.call("count", lambda: self._far.count(scope, now=now))

    async def shared_secret(self, candidate: bytes) -> bytes:
        """See `SpanStore.shared_secret`."""
        return await self._guard.call("shared_secret", lambda: self._far.shared_secret(candidate), timeout_s=2.0)

    async def ping(self) -> None:
        """See `SpanStore.ping`."""
        await self._guard.call("ping", self._far.ping)

    async def close(self) -> None:
        """See `SpanStore.close`."""
        await self._debts.close()
        await self._channel.close()
        await self._far.close()

    async def _told(self, owed: Mapping[str, Unsettled]) -> None:
        """Tell Redis and all replicas, whatever the guard thinks of Redis: others may reach it."""
        unsettled = max(owed.values())
        began_at = unsettled.until - unsettled.for_s
        async with asyncio.timeout(self._near_ttl_s + _TELL_S):
            await self._far.invalidate(list(owed), unsettled_s=unsettled.for_s, now=began_at)
            await self._channel.tell(list(owed), unsettled_until=unsettled.until)

    async def _believed(self, operation: str, call: Callable[[], Awaitable[Result]]) -> Result:
        """Return what *call* finds in Redis, provided that Redis knows of every write that has been answered.

        Raises `StoreUnavailableError` where it may not, because a write has yet to be told, or because this may be
        another Redis than the one that was told.
        """
        if self._debts:
            await self._debts.paid(wait_s=self._timeout_s)
        await self._channel.begun(wait_s=self._timeout_s)
        session = self._channel.session
        if session is None:
            raise StoreUnavailableError("redis: not known to be the one that was told of writes")
        result = await self._guard.call(operation, call)
        if self._channel.session != session:
            raise StoreUnavailableError("redis: another one than a moment ago")
        return result

    async def _held(self, key: ListingKey, after: str) -> bool:
        return await self._guard.call("held", lambda: self._far.leases.held(key, after))

    def _believes_memory_of(self, key: ListingKey) -> bool:
        return self._channel.trusted and self._generations.known(key)

    def _just_fetched(self, found: Found, *, now: float) -> bool:
        return all(current_age(piece.span.fetched_at, now=now) < self._near_ttl_s for piece in found.pieces)

    def _apply(self, scopes: Collection[str], unsettled_until: float) -> None:
        """Do what another replica's invalidation of *scopes* demands."""
        self._pass_on(scopes)
        self._generations.invalidated(scopes)
        self._near.unsettle(unsettled_until)

    def _lost(self) -> None:
        """Do what is due once messages of other replicas may have been missed."""
        self._generations.lost()
        self._debts.hurry()
        self._pass_on(None)


def _suffices(found: Found, count: int, *, now: float) -> bool:
    """Whether *found* is fresh, and has *count* images or all that there are."""
    left = count
    for piece in found.pieces:
        span = piece.span
        if span.generation != found.state.generation or current_age(span.fetched_at, now=now) >= span.lifetime_s:
            return False
        left -= piece.count
    return bool(found.pieces) and (left <= 0 or found.pieces[-1].span.stops or found.pieces[-1].span.hides)
