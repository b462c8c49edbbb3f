"""The two-level store: process memory in front of Redis.

Memory is believed while the invalidation bus is, whatever happens to commands, for then every invalidation arrives
before its write is answered. While the bus is down, `OutageMode` says how long memory is believed.

Memory answers by itself only for listings all of whose scopes are known. What Redis just answered is taken over unless
news came meanwhile: the answer may be from before them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from enum import StrEnum
from functools import partial
from itertools import takewhile
from math import inf
from typing import Any, Final, TypeVar

from proxy.core.cache_key import CacheKey
from proxy.core.freshness import current_age
from proxy.core.span import Span, SpanSlice
from proxy.errors import StoreUnavailableError
from proxy.observability.event_loop import LoopClock, cancel_and_wait
from proxy.storage.base import FetchLock, FoundSpans, Health, ListingState
from proxy.storage.circuit_breaker import CircuitBreaker
from proxy.storage.invalidation_bus import InvalidationBus
from proxy.storage.invalidation_outbox import InvalidationOutbox, PendingChanges
from proxy.storage.memory import MemoryStore
from proxy.storage.redis import RedisStore

_MAX_KNOWN: Final = 10_000
_MAX_PUT_WAIT_S: Final = 0.1  # the longest that an answer waits for its span to be in Redis, for other replicas


class Generations:
    """Keeps the generations in *near* in step with Redis. *news* grows whenever one may have changed."""

    def __init__(self, near: MemoryStore) -> None:
        self._near = near
        self._known: set[str] = set()
        self.news = 0

    def get(self, key: CacheKey) -> bool:
        """Whether memory has the same generation of *key* as Redis, provided that invalidations arrive."""
        return self._known.issuperset(key.tags)

    def learn(self, key: CacheKey, generation: str, *, asked_at: int) -> None:
        """Store the *generation* that Redis gave for *key*, unless `news` has grown since *asked_at*."""
        if asked_at != self.news or (self.get(key) and self._near.generation(key) == generation):
            return
        self._near.set_generations(dict(zip(key.tags, generation.split("."), strict=True)))
        if len(self._known) > _MAX_KNOWN:
            self._known.clear()
        self._known.update(key.tags)

    def forget_invalidation(self, tags: Iterable[str]) -> None:
        """Forget the generations of *tags*: this replica saw a write that it has yet to publish."""
        self.news += 1
        self._known.difference_update(tags)

    def record_invalidated(self, tags: Collection[str]) -> None:
        """Forget the generations of *tags*, and learn them from Redis anew: it alone says which was drawn last.

        1. A draws one. 2. C fetches under it. 3. B draws another, tells it, and its write is answered. 4. A's news come
        late: to take over what they say would make C believe what it fetched before B's write.
        """
        self.forget_invalidation(tags)
        self._near.forget_generations(tags)

    def forget_all(self) -> None:
        """Forget all generations: invalidations may have been missed."""
        self.news += 1
        self._known.clear()


Result = TypeVar("Result")

_PUBLISH_TIMEOUT_S: Final = 2.0


class OutageMode(StrEnum):
    """How long memory is used while invalidations can't arrive and other replicas were seen lately.

    CONSISTENT: for *near_ttl_s* after it was fetched, which is how long a writer waits for replicas it can't reach.
    AVAILABLE: to the end of its lifetime. A replica that has lately seen no other believes all it has in either mode.
    """

    CONSISTENT = "consistent"
    AVAILABLE = "available"


class TieredStore:
    """A `SpanStore`: *near* before *far*. *near_ttl_s* is how long memory is believed without the bus, seconds,
    *stale_s* how long a span is of use after its lifetime, *timeout_s* the longest that a request waits for Redis.

    *on_failure* is told the name of each operation that fails in Redis; *on_invalidation* the scopes that any replica
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
        on_failure: Callable[[str], None],
        loop_clock: LoopClock,
        outage_mode: OutageMode = OutageMode.CONSISTENT,
        on_invalidation: Callable[[Iterable[str] | None], None] = lambda _: None,
    ) -> None:
        self._near = near
        self._far = far
        self._near_ttl_s = near_ttl_s
        self._stale_s = stale_s
        self._timeout_s = timeout_s
        self._outage_mode = outage_mode
        self._loop_clock = loop_clock
        self._breaker = CircuitBreaker(
            timeout_s=timeout_s,
            loop_clock=loop_clock,
            probe=far.commands.probe,
            reset=far.commands.reset,
            on_failure=on_failure,
        )
        self._bus = InvalidationBus(
            far, trust_s=near_ttl_s, loop_clock=loop_clock, apply=self._apply, on_missed=self._forget_unheard
        )
        far.locks.lag_s = lambda: loop_clock.lag_s
        self._generations = Generations(near)
        self._outbox = InvalidationOutbox(self._publish)
        self._writes: dict[str, set[asyncio.Task[None]]] = {}  # under way, by listing
        self._on_invalidation = on_invalidation

    def start(self) -> None:
        """Start listening to other replicas."""
        self._bus.start()

    @property
    def epoch(self) -> int | None:
        """See `SpanStore.epoch`."""
        return self._generations.news + self._near.epoch if self._bus.is_trusted or self._is_lone_in_outage() else None

    @property
    def stored_bytes(self) -> int:
        """See `SpanStore.stored_bytes`."""
        return self._near.stored_bytes

    def health(self) -> Health:
        """See `SpanStore.health`."""
        breaker, bus = self._breaker.open_reason, self._bus.down_reason
        parts = {
            "redis": f"unavailable: {breaker}" if breaker else "ok",
            "invalidation_bus": f"down: {bus}; {self._outage_effect()}" if bus else "ok",
        }
        return replace(self._near.health(), parts={"memory": "ok"} | parts, replicas=len(self._bus.peers))

    @property
    def bus_up(self) -> bool:
        """Whether invalidations by other replicas arrive."""
        return self._bus.is_trusted

    @property
    def far(self) -> RedisStore:
        """The store in Redis."""
        return self._far

    @property
    def bus(self) -> InvalidationBus:
        """The invalidation bus."""
        return self._bus

    @property
    def breaker(self) -> CircuitBreaker:
        """The circuit breaker of all calls to Redis."""
        return self._breaker

    async def lookup(self, key: CacheKey, marker: str, count: int, *, can_join: bool = True, now: float) -> FoundSpans:
        """See `SpanStore.lookup`: from memory where it has all of the window, fresh."""
        near = self._near.lookup_now(key, marker, count, can_join=can_join, now=now)
        if _is_sufficient(near, count, now=now) and (self._trusts_memory_of(key) or self._log_outage(near, now=now)):
            return near
        asked_at, began = self._generations.news, time.monotonic()
        try:
            await self._finish_writes(key)
            far = await self._read_redis(
                "chain", lambda: self._far.lookup(key, marker, count, can_join=can_join, now=now)
            )
        except StoreUnavailableError:
            now += time.monotonic() - began
            near = self._near.lookup_now(key, marker, count, can_join=can_join, now=now)
            return near if self._trusts_memory_of(key) else self._in_outage(key, near, now=now)
        self._generations.learn(key, far.state.generation, asked_at=asked_at)
        for span_slice in far.slices:
            if span_slice.span.generation == far.state.generation:
                left_s = span_slice.span.lifetime_s - current_age(span_slice.span.fetched_at, now=now)
                self._near.put_now(key, span_slice.span, keep_s=left_s + self._stale_s, now=now)
        return far if far.slices else replace(far, unconfirmed=self._unconfirmed(key, near, far.state))

    async def find_image(self, key: CacheKey, image_id: str, *, now: float) -> SpanSlice | None:
        """See `SpanStore.find_image`."""
        near = await self._near.find_image(key, image_id, now=now)
        return near or await self._breaker.call("holding", lambda: self._far.find_image(key, image_id, now=now))

    async def acquire_lock(self, key: CacheKey, marker: str, *, now: float) -> FetchLock:
        """See `SpanStore.acquire_lock`. Without Redis every replica is on its own."""
        asked_at = self._generations.news
        try:
            await self._finish_writes(key)
            lock = await self._read_redis(
                "claim",
                lambda: self._far.acquire_lock(key, marker, now=now),
                late=lambda claim: self._release_late_lock(key, marker, claim),
            )
        except StoreUnavailableError:
            return FetchLock(self._near.state(key, now=now), 0)
        self._generations.learn(key, lock.state.generation, asked_at=asked_at)
        return lock

    async def release_lock(self, key: CacheKey, marker: str, lock: FetchLock) -> None:
        """See `SpanStore.release_lock`. The lock is released once what was put before is in Redis; nobody waits for
        that.
        """
        if lock.fence:
            self._write_behind(
                key, self._release_after_writes(key, marker, lock, list(self._writes.get(key.digest, ())))
            )

    async def wait_for_release(self, key: CacheKey, marker: str, *, timeout_s: float) -> bool:
        """See `SpanStore.wait_for_release`: woken by the bus where there is one."""
        message = self._far.names.wake_message(key.digest, marker)
        return await self._bus.wait_for(message, timeout_s=timeout_s)

    async def put(self, key: CacheKey, span: Span, *, keep_s: float, now: float, fence: int = 0) -> None:
        """See `SpanStore.put`. Where memory keeps the span it is written to Redis in the background, see `written`.

        With other replicas it is waited for, briefly: who pages on may come to one of them next, and from a span that
        it does not find there it can't tell how far the pages before have come.
        """
        self._near.put_now(key, span, keep_s=keep_s, now=now)

        def write() -> Coroutine[Any, Any, None]:
            return self._far.put(key, span, keep_s=keep_s, now=now, fence=fence)

        if self._near.max_bytes:
            self._write_behind(key, self._breaker.call("put", write, timeout_s=self._timeout_s))
            if not self._bus.is_alone:
                await self._finish_writes(key, most_s=_MAX_PUT_WAIT_S)
        else:
            await self._breaker.call("put", write, must_run=True)

    async def flush(self) -> None:
        """Return once all writes and releases so far are in Redis, or were given up."""
        while writes := [task for each in self._writes.values() for task in each]:
            await asyncio.wait(writes)

    def note_use(self, key: CacheKey, markers: Sequence[str]) -> None:
        """See `SpanStore.note_use`: what is in memory; Redis has its own way."""
        self._near.note_use(key, markers)

    async def invalidate(self, tags: Sequence[str], *, pending_s: float = 0.0, now: float) -> None:
        """See `SpanStore.invalidate`.

        Where Redis can't be reached, this waits until no replica that can't reach it either believes its memory, unless
        no other was lately seen. Redis is told as soon as it can be, and before it is asked again.
        """
        await self._near.invalidate(tags, pending_s=pending_s, now=now)
        self._generations.forget_invalidation(tags)
        pending = PendingChanges(now + pending_s, pending_s) if pending_s else PendingChanges()
        await self._outbox.add(tags, pending=pending, wait_s=0.0 if self._is_lone_in_outage() else self._near_ttl_s)

    async def count_listings(self, tag: str, *, now: float) -> int:
        """See `SpanStore.count_listings`."""
        return await self._breaker.call("count", lambda: self._far.count_listings(tag, now=now))

    async def shared_secret(self, candidate: bytes) -> bytes:
        """See `SpanStore.shared_secret`."""
        return await self._breaker.call("shared_secret", lambda: self._far.shared_secret(candidate), timeout_s=2.0)

    async def ping(self) -> None:
        """See `SpanStore.ping`."""
        await self._breaker.call("ping", self._far.ping)

    async def close(self) -> None:
        """See `SpanStore.close`."""
        await self._outbox.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(_PUBLISH_TIMEOUT_S):
                await self.flush()
        await self._bus.close()
        await self._breaker.close()
        await cancel_and_wait([task for writes in self._writes.values() for task in writes])
        await self._far.close()

    async def _publish(self, owed: Mapping[str, PendingChanges]) -> None:
        """Publish to Redis and all replicas, even with an open circuit breaker: others may reach Redis."""
        pending = max(owed.values())
        began_at = pending.until - pending.for_s
        async with asyncio.timeout(self._near_ttl_s + _PUBLISH_TIMEOUT_S):
            await self._far.invalidate(list(owed), pending_s=pending.for_s, now=began_at)
            await self._bus.publish(list(owed), pending_until=pending.until)

    async def _read_redis(
        self,
        operation: str,
        command: Callable[[], Coroutine[Any, Any, Result]],
        *,
        late: Callable[[Result], Coroutine[Any, Any, object]] | None = None,
    ) -> Result:
        """Return what *command* finds in Redis, provided that Redis knows of every write that has been answered.

        Raises `StoreUnavailableError` where it may not, because a write has yet to be told, or because this may be
        another Redis than the one that was told.
        """
        if self._breaker.is_open:
            raise StoreUnavailableError("redis: circuit breaker open")
        with self._breaker.limit_wait() as left_s:
            if self._outbox:
                await self._outbox.wait_until_published(wait_s=left_s)
            if self._bus.session is None:
                await self._bus.wait_until_listening(wait_s=left_s)
        session = self._bus.session
        if session is None:
            raise StoreUnavailableError("redis: not known to be the one that was told of writes")
        result = await self._breaker.call(operation, command, on_late_result=late)
        if self._bus.session != session:
            if late is not None:
                await late(result)
            raise StoreUnavailableError("redis: another one than a moment ago")
        return result

    async def _release_late_lock(self, key: CacheKey, marker: str, lock: FetchLock) -> None:
        """Release a lock that was granted after its request had gone on without it."""
        await self.release_lock(key, marker, lock)

    async def _release_after_writes(
        self, key: CacheKey, marker: str, lock: FetchLock, writes: Collection[asyncio.Task[None]]
    ) -> None:
        if writes:
            await asyncio.wait(writes)
        assert lock.fence is not None
        self._far.locks.abandon(key, marker, lock.fence)
        await self._breaker.call("settle", lambda: self._far.release_lock(key, marker, lock), timeout_s=self._timeout_s)

    async def _finish_writes(self, key: CacheKey, *, most_s: float = inf) -> None:
        """Wait until Redis has what this replica wrote of *key*, within the request's time limit and *most_s*."""
        if writes := self._writes.get(key.digest):
            with self._breaker.limit_wait() as left_s:
                await self._loop_clock.wait(asyncio.gather(*writes), min(left_s, most_s))

    def _write_behind(self, key: CacheKey, work: Coroutine[Any, Any, None]) -> None:
        """Do *work* for the listing *key* in a task of this store's own; where it fails nothing is kept in Redis."""

        async def write() -> None:
            with suppress(StoreUnavailableError):
                await work

        task = asyncio.create_task(write())
        self._writes.setdefault(key.digest, set()).add(task)
        task.add_done_callback(partial(self._note_written, key.digest))

    def _note_written(self, listing: str, task: asyncio.Task[None]) -> None:
        writes = self._writes[listing]
        writes.discard(task)
        if not writes:
            del self._writes[listing]

    def _in_outage(self, key: CacheKey, near: FoundSpans, *, now: float) -> FoundSpans:
        """Return what *near*, found in memory, is good for while invalidations by other replicas can't arrive.

        Each writer waits for `near_ttl_s` before it is answered. So a fetch may be joined if it began within that time,
        and memory may be used if it was filled within it.
        """
        if self._bus.is_alone and (self._bus.session is None or self._bus.is_trusted):
            return near
        slices, unconfirmed = near.slices, self._unconfirmed(key, near, near.state)
        if self._outage_mode is OutageMode.AVAILABLE:
            usable = list(takewhile(lambda piece: _is_fresh(piece.span, now=now), slices))
            return replace(near, slices=tuple(usable), unconfirmed=unconfirmed)
        return replace(
            near,
            slices=slices if self._log_outage(near, now=now) else (),
            uncertainty=f"~{now // self._near_ttl_s:.0f}",
            join_after=asyncio.get_running_loop().time() - self._near_ttl_s,
            unconfirmed=unconfirmed,
        )

    def _unconfirmed(self, key: CacheKey, near: FoundSpans, state: ListingState) -> tuple[SpanSlice, ...]:
        """Return what memory has of a window but Redis can't confirm, as of *state*, unless it was invalidated."""
        return tuple(
            SpanSlice(replace(piece.span, generation=state.generation), piece.start)
            for piece in takewhile(lambda piece: self._near.may_be_valid(key, piece.span.generation), near.slices)
        )

    def _is_lone_in_outage(self) -> bool:
        """Whether the bus is down and no other replica was seen lately, so that nobody else's write can be missed."""
        return self._bus.session is None and self._bus.is_alone

    def _outage_effect(self) -> str:
        if self._bus.is_alone:
            return "no other replica was seen lately, memory is believed to the end of its lifetimes"
        if self._outage_mode is OutageMode.AVAILABLE:
            return "memory is believed to the end of its lifetimes, writes through other replicas are not heard"
        return f"memory is believed for {self._near_ttl_s:g}s"

    def _trusts_memory_of(self, key: CacheKey) -> bool:
        return self._bus.is_trusted and self._generations.get(key)

    def _log_outage(self, found: FoundSpans, *, now: float) -> bool:
        return all(current_age(piece.span.fetched_at, now=now) < self._near_ttl_s for piece in found.slices)

    def _apply(self, tags: Collection[str], unsettled_until: float) -> None:
        """Apply another replica's invalidation of *tags*."""
        self._on_invalidation(tags)
        self._generations.record_invalidated(tags)
        self._near.set_pending(unsettled_until)

    def _forget_unheard(self) -> None:
        """Forget what missed invalidations may have changed."""
        self._generations.forget_all()
        self._outbox.retry_now()
        self._on_invalidation(None)


def _is_sufficient(found: FoundSpans, count: int, *, now: float) -> bool:
    """Whether *found* is fresh and complete: *count* images, or the listing's last."""
    left = count
    for span_slice in found.slices:
        span = span_slice.span
        if span.generation != found.state.generation or not _is_fresh(span, now=now):
            return False
        left -= span_slice.count
    return bool(found.slices) and (
        left <= 0 or found.slices[-1].span.completes_page or found.slices[-1].span.hides_rows
    )


def _is_fresh(span: Span, *, now: float) -> bool:
    return current_age(span.fetched_at, now=now) < span.lifetime_s
