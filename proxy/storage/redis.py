"""Spans in Redis or Valkey. Redis TTLs do the expiring; the scripts beside this file do a window in one round trip."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final

from redis.asyncio import Redis

from proxy.core.cache_key import ListingKey
from proxy.core.span import Piece, Span
from proxy.errors import StoreRefusedError
from proxy.observability.event_loop import run_in_thread
from proxy.observability.logging import event
from proxy.storage import serialization as codec
from proxy.storage.base import Claim, Found, Health
from proxy.storage.fetch_locks import FetchLocks
from proxy.storage.redis_connection import Servers, servers
from proxy.storage.redis_pipeline import OFF_LOOP_BYTES, Word
from proxy.storage.redis_scripts import UNUSED_MS, Commands, Names, evaluating
from proxy.storage.sealing import Seal

_MAX_SPANS: Final = 64
_MAX_INDEX: Final = 250_000
_REMEMBER_MS: Final = 24 * 3600 * 1000
_HOME: Final = re.compile(rb"(\d{1,9}):\d{1,15}:(\d{1,9}):")


class RedisStore:
    """A `SpanStore` in Redis. *keep_s* is the longest that a span is kept; an invalidation is remembered for longer."""

    stored_bytes = 0
    epoch = None

    def __init__(self, redis: Redis | Servers, *, prefix: str, keep_s: float, seal: Seal = codec.CHECKSUM) -> None:
        self.servers = redis if isinstance(redis, Servers) else Servers(redis)
        self.commands = Commands(self.servers, prefix=prefix, remember_ms=int(keep_s * 1000) + _REMEMBER_MS)
        self.locks = FetchLocks(self.commands)
        self._seal = seal
        self._secret: bytes | None = None  # what this replica works with, where it asked for one

    @property
    def redis(self) -> Redis:
        """What commands are sent by."""
        return self.servers.redis

    @property
    def names(self) -> Names:
        """The names of keys."""
        return self.commands.names

    def health(self) -> Health:
        """See `SpanStore.health`; whether it answers is known to who asks it."""
        return Health({}, 0, 0)

    async def chain(self, key: ListingKey, after: str, count: int, *, joinable: bool = True, now: float) -> Found:
        """See `SpanStore.chain`."""
        spans = self.names.spans(key)
        words: list[Word] = [spans, after, count, _MAX_SPANS if joinable else 1, int(joinable)]
        command = evaluating("chain", [self.names.index(key)], words)
        state, (behind, pieces) = await self.commands.told(
            key, command, now=now, read=lambda found: self._chained(spans, after, found)
        )
        return Found(pieces, state, behind)

    def _chained(self, spans: str, after: str, found: Sequence[Any]) -> tuple[int, tuple[Piece, ...]]:
        """Return what `chain.lua` found: rows asked for behind the marker, and the pieces as far as they are whole."""
        behind, *rest = found
        pieces: list[Piece] = []
        for position, start, value in zip(rest[::3], rest[1::3], rest[2::3], strict=True):
            span = codec.decode(value, key=spans.encode() + start, seal=self._seal)
            if span is None or position > len(span.ids) or (position and span.ids[position - 1] != after):
                break
            pieces.append(Piece(span, position))
            if span.end is None:
                break
            after = span.end
        return behind, tuple(pieces)

    async def holding(self, key: ListingKey, image_id: str, *, now: float) -> Piece | None:  # noqa: ARG002 - TTLs expire
        """See `SpanStore.holding`."""
        try:
            async with self.commands.translated() as redis:
                text = await redis.hget(self.names.index(key), image_id)
                for position, after in _homes(text if isinstance(text, bytes) else b""):
                    name = self.names.spans(key).encode() + after
                    value = await redis.get(name)
                    span = codec.decode(value, key=name, seal=self._seal) if isinstance(value, bytes) else None
                    if span and 0 < position <= len(span.ids) and span.ids[position - 1] == image_id:
                        return Piece(span, position)
        except StoreRefusedError:
            return None
        return None

    async def claim(self, key: ListingKey, after: str, *, now: float) -> Claim:
        """See `FetchLocks.acquire`."""
        return await self.locks.acquire(key, after, now=now)

    async def settle(self, key: ListingKey, after: str, claim: Claim) -> None:
        """See `SpanStore.settle`."""
        await self.locks.release(key, after, claim)

    async def settled(self, key: ListingKey, after: str, *, timeout_s: float) -> bool:  # noqa: ARG002 - nobody tells
        """See `SpanStore.settled`."""
        await self.locks.wait(timeout_s)
        return False

    async def put(self, key: ListingKey, span: Span, *, keep_s: float, now: float, fence: int = 0) -> None:
        """See `SpanStore.put`."""
        keep_ms = int(keep_s * 1000)
        if keep_ms <= 0:
            return
        name = self.names.spans(key) + span.after
        encode = partial(codec.encode, span, key=name.encode(), fence=fence, seal=self._seal)
        value = encode() if len(span.body) < OFF_LOOP_BYTES else await run_in_thread(encode)
        hold_ms = keep_ms + UNUSED_MS
        of_listing = [name, self.names.index(key), self.names.claims(key)]
        words: list[Word] = [value, fence, keep_ms, span.after, _MAX_INDEX, int(now * 1000), hold_ms, *span.ids]
        of_scopes = [each(scope) for scope in key.scopes for each in (self.names.generation, self.names.listings)]
        holding: list[Word] = [key.digest, now + keep_s, now, hold_ms]
        # Where the rest fails the span is kept all the same: it is of no use once its generation is gone.
        await self.commands.send(
            [evaluating("put", of_listing, words), evaluating("hold", of_scopes, holding)], len, needed=1
        )

    def used(self, key: ListingKey, starts: Sequence[str]) -> None:
        """See `SpanStore.used`: what goes first is for Redis to say."""

    async def invalidate(self, scopes: Sequence[str], *, unsettled_s: float = 0.0, now: float) -> None:
        """See `SpanStore.invalidate`. Generations are drawn, not counted: none ever comes again."""
        async with self.commands.translated() as redis, redis.pipeline(transaction=False) as pipe:
            for scope in scopes:
                pipe.set(self.names.generation(scope), secrets.token_hex(8), px=self.commands.remember_ms)
                pipe.delete(self.names.listings(scope))
            if unsettled_s > 0:
                pipe.set(self.names.unsettled, repr(now + unsettled_s), px=int(unsettled_s * 1000) or 1)
            await pipe.execute()

    async def budgeted(self, scope: str, order: bytes, *, life: bytes, known: bytes = b"") -> tuple[bytes, Any]:
        """Return which life of the budgets is kept here, *life* if none was, and what `budget.lua` says to *order*.

        Where it is another than the *known* one, nothing was done and nothing is said.
        """
        names = (*self.names.budget(scope), self.names.budgets, self.names.budget_replicas)
        (kept, *said), *_ = await self.commands.send([evaluating("budget", names, [order, life, known])], list)
        return kept, said

    async def count(self, scope: str, *, now: float) -> int:
        """See `SpanStore.count`."""
        async with self.commands.translated() as redis:
            return int(await redis.zcount(self.names.listings(scope), now, "+inf"))

    async def shared_secret(self, candidate: bytes) -> bytes:
        """See `SpanStore.shared_secret`."""
        self._secret = candidate
        self._secret = await self._kept_secret(candidate)
        return self._secret

    async def keep_secret(self) -> None:
        """Give a Redis that has lost the secret the one that is in use, so that replicas which start later share it.

        The log is told where another is there by now.
        """
        if self._secret is not None and await self._kept_secret(self._secret) != self._secret:
            event("secret-not-shared", level=logging.WARNING, fact="the store holds another, of a later replica")

    async def _kept_secret(self, candidate: bytes) -> bytes:
        async with self.commands.translated() as redis:
            await redis.set(self.names.secret, candidate, nx=True)
            secret = await redis.get(self.names.secret)
        return secret if isinstance(secret, bytes) and len(secret) >= 16 else candidate

    async def get(self, name: str) -> bytes | None:
        """Return the value of *name*."""
        async with self.commands.translated() as redis:
            value = await redis.get(name)
        return value if isinstance(value, bytes) else None

    async def set(self, name: str, value: bytes, *, for_ms: int, new: bool = False) -> bool:
        """Give *name* this value for so long, and return whether that was done: if *new*, only where it has none."""
        async with self.commands.translated() as redis:
            return bool(await redis.set(name, value, px=for_ms, nx=new))

    async def delete(self, name: str) -> None:
        """Take *name* and its value out."""
        async with self.commands.translated() as redis:
            await redis.delete(name)

    async def ping(self) -> None:
        """See `SpanStore.ping`: of a cluster's nodes, the one that all the others are of no use without."""
        async with self.commands.translated() as redis:
            await redis.exists(self.names.run)

    async def close(self) -> None:
        """See `SpanStore.close`."""
        await self.locks.close()
        await self.commands.close()
        await self.servers.close()


def _homes(text: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield where an image stands by its entries in the index: its position behind the marker that a span follows."""
    at = 0
    while entry := _HOME.match(text, at):
        at = entry.end() + int(entry[2])
        yield int(entry[1]), text[entry.end() : at]


def connected(url: str, *, prefix: str, keep_s: float, timeout_s: float, seal: Seal = codec.CHECKSUM) -> RedisStore:
    """Return a store in the Redis at *url*; see `servers`."""
    return RedisStore(servers(url, timeout_s=timeout_s), prefix=prefix, keep_s=keep_s, seal=seal)
