"""Spans in Redis or Valkey. Keys expire by TTL; the scripts beside this file read a window in one round trip."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final

from redis.asyncio import Redis

from proxy.core.cache_key import CacheKey
from proxy.core.span import Span, SpanSlice
from proxy.errors import StoreRefusedError
from proxy.observability.event_loop import run_in_thread
from proxy.observability.logging import log_event
from proxy.storage import serialization as codec
from proxy.storage.base import FetchLock, FoundSpans, Health
from proxy.storage.fetch_locks import FetchLocks
from proxy.storage.redis_connection import RedisServers, connect_servers
from proxy.storage.redis_pipeline import OFF_LOOP_BYTES, Word
from proxy.storage.redis_scripts import UNUSED_MS, KeyNames, RedisCommands, eval_command
from proxy.storage.sealing import Seal

_MAX_SPANS: Final = 64
_MAX_INDEX: Final = 250_000
_KEEP_SECRET_MS: Final = 24 * 3600 * 1000
_POSITION: Final = re.compile(rb"(\d{1,9}):\d{1,15}:(\d{1,9}):")


class RedisStore:
    """A `SpanStore` in Redis. *keep_s* is the longest that a span is kept; an invalidation is remembered for longer."""

    stored_bytes = 0
    epoch = None

    def __init__(self, redis: Redis | RedisServers, *, prefix: str, keep_s: float, seal: Seal = codec.CHECKSUM) -> None:
        self.servers = redis if isinstance(redis, RedisServers) else RedisServers(redis)
        self.commands = RedisCommands(self.servers, prefix=prefix, remember_ms=int(keep_s * 1000) + _KEEP_SECRET_MS)
        self.locks = FetchLocks(self.commands)
        self._seal = seal
        self._secret: bytes | None = None  # what this replica works with, where it asked for one

    @property
    def redis(self) -> Redis:
        """The pipeline that commands are sent through."""
        return self.servers.redis

    @property
    def names(self) -> KeyNames:
        """The names of keys."""
        return self.commands.names

    def health(self) -> Health:
        """See `SpanStore.health`; whether it answers is known to who asks it."""
        return Health({}, 0, 0)

    async def lookup(self, key: CacheKey, marker: str, count: int, *, can_join: bool = True, now: float) -> FoundSpans:
        """See `SpanStore.lookup`."""
        spans = self.names.spans(key)
        words: list[Word] = [spans, marker, count, _MAX_SPANS if can_join else 1, int(can_join)]
        command = eval_command("chain", [self.names.index(key)], words)
        state, (behind, slices) = await self.commands.read_with_state(
            key, command, now=now, read=lambda found: self._read_slices(spans, marker, found)
        )
        return FoundSpans(slices, state, behind)

    def _read_slices(self, spans: str, marker: str, found: Sequence[Any]) -> tuple[int, tuple[SpanSlice, ...]]:
        """Return what `chain.lua` found: rows asked for behind the marker, and the pieces as far as they are whole."""
        behind, *rest = found
        slices: list[SpanSlice] = []
        for position, start, value in zip(rest[::3], rest[1::3], rest[2::3], strict=True):
            span = codec.decode(value, key=spans.encode() + start, seal=self._seal)
            if span is None or position > len(span.ids) or (position and span.ids[position - 1] != marker):
                break
            slices.append(SpanSlice(span, position))
            if span.next_marker is None:
                break
            marker = span.next_marker
        return behind, tuple(slices)

    async def find_image(self, key: CacheKey, image_id: str, *, now: float) -> SpanSlice | None:  # noqa: ARG002 - TTLs expire
        """See `SpanStore.find_image`."""
        try:
            async with self.commands.translate_errors() as redis:
                text = await redis.hget(self.names.index(key), image_id)
                for position, marker in _parse_positions(text if isinstance(text, bytes) else b""):
                    name = self.names.spans(key).encode() + marker
                    value = await redis.get(name)
                    span = codec.decode(value, key=name, seal=self._seal) if isinstance(value, bytes) else None
                    if span and 0 < position <= len(span.ids) and span.ids[position - 1] == image_id:
                        return SpanSlice(span, position)
        except StoreRefusedError:
            return None
        return None

    async def acquire_lock(self, key: CacheKey, marker: str, *, now: float) -> FetchLock:
        """See `FetchLocks.acquire`."""
        return await self.locks.acquire(key, marker, now=now)

    async def release_lock(self, key: CacheKey, marker: str, lock: FetchLock) -> None:
        """See `SpanStore.release_lock`."""
        await self.locks.release(key, marker, lock)

    async def wait_for_release(self, key: CacheKey, marker: str, *, timeout_s: float) -> bool:  # noqa: ARG002 - nobody tells
        """See `SpanStore.wait_for_release`."""
        await self.locks.wait(timeout_s)
        return False

    async def put(self, key: CacheKey, span: Span, *, keep_s: float, now: float, fence: int = 0) -> None:
        """See `SpanStore.put`."""
        keep_ms = int(keep_s * 1000)
        if keep_ms <= 0:
            return
        name = self.names.spans(key) + span.marker
        encode = partial(codec.encode, span, key=name.encode(), fence=fence, seal=self._seal)
        value = encode() if len(span.body) < OFF_LOOP_BYTES else await run_in_thread(encode)
        hold_ms = keep_ms + UNUSED_MS
        of_listing = [name, self.names.index(key), self.names.fetch_lock_counter(key)]
        words: list[Word] = [value, fence, keep_ms, span.marker, _MAX_INDEX, int(now * 1000), hold_ms, *span.ids]
        of_scopes = [each(scope) for scope in key.tags for each in (self.names.generation, self.names.listings)]
        holding: list[Word] = [key.digest, now + keep_s, now, hold_ms]
        # Where the rest fails the span is kept all the same: it is of no use once its generation is gone.
        await self.commands.send(
            [eval_command("put", of_listing, words), eval_command("hold", of_scopes, holding)], len, needed=1
        )

    def note_use(self, key: CacheKey, markers: Sequence[str]) -> None:
        """See `SpanStore.note_use`: what goes first is for Redis to say."""

    async def invalidate(self, tags: Sequence[str], *, pending_s: float = 0.0, now: float) -> None:
        """See `SpanStore.invalidate`. Generations are drawn, not counted: none ever comes again."""
        async with self.commands.translate_errors() as redis, redis.pipeline(transaction=False) as pipe:
            for scope in tags:
                pipe.set(self.names.generation(scope), secrets.token_hex(8), px=self.commands.remember_ms)
                pipe.delete(self.names.listings(scope))
            if pending_s > 0:
                pipe.set(self.names.pending_changes, repr(now + pending_s), px=int(pending_s * 1000) or 1)
            await pipe.execute()

    async def run_rate_limit_script(
        self, scope: str, order: bytes, *, store_run: bytes, known: bytes = b""
    ) -> tuple[bytes, Any]:
        """Return which life of the budgets is kept here, *store_run* if none was, and what `budget.lua` says to
        *order*.

        Where it is another than the *known* one, nothing was done and nothing is said.
        """
        names = (*self.names.budget(scope), self.names.budgets, self.names.budget_replicas)
        (kept, *said), *_ = await self.commands.send([eval_command("budget", names, [order, store_run, known])], list)
        return kept, said

    async def count_listings(self, tag: str, *, now: float) -> int:
        """See `SpanStore.count_listings`."""
        async with self.commands.translate_errors() as redis:
            return int(await redis.zcount(self.names.listings(tag), now, "+inf"))

    async def shared_secret(self, candidate: bytes) -> bytes:
        """See `SpanStore.shared_secret`."""
        self._secret = candidate
        self._secret = await self._store_secret(candidate)
        return self._secret

    async def restore_secret(self) -> None:
        """Restore the secret in a Redis that has lost it, so that replicas that start later share it.

        The log is told where another is there by now.
        """
        if self._secret is not None and await self._store_secret(self._secret) != self._secret:
            log_event("secret_not_shared", level=logging.WARNING, reason="the store holds another, of a later replica")

    async def _store_secret(self, candidate: bytes) -> bytes:
        async with self.commands.translate_errors() as redis:
            await redis.set(self.names.secret, candidate, nx=True)
            secret = await redis.get(self.names.secret)
        return secret if isinstance(secret, bytes) and len(secret) >= 16 else candidate

    async def get(self, name: str) -> bytes | None:
        """Return the value of *name*, None if there is none."""
        async with self.commands.translate_errors() as redis:
            value = await redis.get(name)
        return value if isinstance(value, bytes) else None

    async def set(self, name: str, value: bytes, *, for_ms: int, new: bool = False) -> bool:
        """Set *name* for *for_ms* milliseconds, with *new* only if it has no value; return whether it was set."""
        async with self.commands.translate_errors() as redis:
            return bool(await redis.set(name, value, px=for_ms, nx=new))

    async def delete(self, name: str) -> None:
        """Delete *name*."""
        async with self.commands.translate_errors() as redis:
            await redis.delete(name)

    async def ping(self) -> None:
        """See `SpanStore.ping`: of a cluster's nodes, the one that all the others are of no use without."""
        async with self.commands.translate_errors() as redis:
            await redis.exists(self.names.server_run)

    async def close(self) -> None:
        """See `SpanStore.close`."""
        await self.locks.close()
        await self.commands.close()
        await self.servers.close()


def _parse_positions(text: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield where an image stands by its entries in the index: its position behind the marker that a span follows."""
    at = 0
    while entry := _POSITION.match(text, at):
        at = entry.end() + int(entry[2])
        yield int(entry[1]), text[entry.end() : at]


def connect(url: str, *, prefix: str, keep_s: float, timeout_s: float, seal: Seal = codec.CHECKSUM) -> RedisStore:
    """Return a store in the Redis at *url*; see `proxy.storage.redis_connection`."""
    return RedisStore(connect_servers(url, timeout_s=timeout_s), prefix=prefix, keep_s=keep_s, seal=seal)
