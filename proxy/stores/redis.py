"""Spans in Redis or Valkey. Redis TTLs do the expiring; the scripts beside this file do a window in one round trip."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from importlib.resources import files
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from proxy.core.keys import ListingKey
from proxy.core.listing import Piece, Span
from proxy.errors import StoreRefusedError, StoreUnavailableError
from proxy.stores import codec
from proxy.stores.base import Claim, Found, Health, State
from proxy.stores.ending import ended
from proxy.stores.names import Names
from proxy.stores.seal import Seal

_MAX_SPANS: Final = 64
_MAX_INDEX: Final = 250_000
_CLAIM_MS: Final = 5_000
_REMEMBER_MS: Final = 24 * 3600 * 1000
_NAMES: Final = ("chain", "put", "claim", "settle", "budget")
# Sent as text each time: Redis knows it by its hash, and one that restarted needs no second round trip to learn it.
_SCRIPTS: Final = {
    name: re.sub(r"(?m)^\s*--.*\n", "", files("proxy.stores").joinpath(f"{name}.lua").read_text()) for name in _NAMES
}

_HOME: Final = re.compile(rb"(\d{1,9}):(.*)", re.DOTALL)
_GENERATION: Final = re.compile(rb"[0-9a-f]{16}")

Word = str | int | bytes


class RedisStore:
    """A `SpanStore` in Redis. *keep_s* is the longest that a span is kept; an invalidation is remembered for longer."""

    stored_bytes = 0
    epoch = None

    def __init__(self, redis: Redis, *, prefix: str, keep_s: float, seal: Seal = codec.CHECKSUM) -> None:
        self.redis = redis
        self._seal = seal
        self.names = Names(prefix)
        self._remember_ms = int(keep_s * 1000) + _REMEMBER_MS
        self._renewals: dict[tuple[str, str], asyncio.Task[None]] = {}

    def health(self) -> Health:
        """See `SpanStore.health`; whether it answers is known to who asks it."""
        return Health({}, 0, 0)

    async def chain(self, key: ListingKey, after: str, count: int, *, joinable: bool = True, now: float) -> Found:
        """See `SpanStore.chain`."""
        spans = self.names.spans(key)
        words: list[Word] = [spans, after, count, _MAX_SPANS, int(joinable)]
        state, (behind, *found) = await self._stated(key, "chain", [self.names.index(key)], words, now=now)
        pieces: list[Piece] = []
        for position, start, value in zip(found[::3], found[1::3], found[2::3], strict=True):
            span = codec.decode(value, key=spans.encode() + start, seal=self._seal)
            if span is None or position > len(span.ids) or (position and span.ids[position - 1] != after):
                break
            pieces.append(Piece(span, position))
            if span.end is None:
                break
            after = span.end
        return Found(tuple(pieces), state, behind)

    async def holding(self, key: ListingKey, image_id: str, *, now: float) -> Piece | None:  # noqa: ARG002 - TTLs expire
        """See `SpanStore.holding`."""
        try:
            async with self._translated() as redis:
                home = await redis.hget(self.names.index(key), image_id)
                entry = _HOME.fullmatch(home) if isinstance(home, bytes) else None
                if entry is None:
                    return None
                name = self.names.spans(key).encode() + entry[2]
                value = await redis.get(name)
        except StoreRefusedError:
            return None
        span = codec.decode(value, key=name, seal=self._seal) if isinstance(value, bytes) else None
        at = int(entry[1])
        return Piece(span, at) if span and 0 < at <= len(span.ids) and span.ids[at - 1] == image_id else None

    async def claim(self, key: ListingKey, after: str, *, now: float) -> Claim:
        """See `SpanStore.claim`. A claim is renewed until it is settled; that of an owner that died lapses.

        Scopes without a generation are given one, so that no span is fetched under none: Redis may evict a generation,
        and what was fetched before must not look current again.
        """
        names = [self.names.claim(key, after), self.names.claims(key)]
        words: list[Word] = [_CLAIM_MS, _REMEMBER_MS]
        state, fence = await self._stated(key, "claim", names, words, now=now, begin=True)
        if not fence:
            return Claim(state, None)
        at = (key.digest, after)
        self._renewals[at] = asyncio.create_task(self._renewed(names[0], fence))
        return Claim(state, fence)

    async def settle(self, key: ListingKey, after: str, claim: Claim) -> None:
        """See `SpanStore.settle`."""
        self.let_go(key, after)
        if claim.fence:
            words: list[Word] = [claim.fence, 0, self.names.channel, self.names.woken(key.digest, after)]
            await self._run("settle", [self.names.claim(key, after)], words)

    def let_go(self, key: ListingKey, after: str) -> None:
        """Renew the claim no more; then it lapses by itself."""
        renewal = self._renewals.pop((key.digest, after), None)
        if renewal is not None:
            renewal.cancel()

    async def settled(self, key: ListingKey, after: str, *, timeout_s: float) -> None:
        """See `SpanStore.settled`: without a channel, the time that the claim has left."""
        async with self._translated() as redis:
            left_ms = await redis.pttl(self.names.claim(key, after))
        if left_ms > 0:
            await asyncio.sleep(min(timeout_s, left_ms / 1000))

    async def held(self, key: ListingKey, after: str) -> bool:
        """Return whether somebody holds the claim on the span after *after*."""
        async with self._translated() as redis:
            return bool(await redis.exists(self.names.claim(key, after)))

    async def put(self, key: ListingKey, span: Span, *, keep_s: float, now: float, fence: int = 0) -> None:
        """See `SpanStore.put`."""
        keep_ms = int(keep_s * 1000)
        if keep_ms <= 0:
            return
        name = self.names.spans(key) + span.after
        value = codec.encode(span, key=name.encode(), fence=fence, seal=self._seal)
        words: list[Word] = [value, fence, keep_ms, span.after, _MAX_INDEX, *span.ids]
        async with self._translated() as redis, redis.pipeline(transaction=False) as pipe:
            pipe.eval(_SCRIPTS["put"], 2, name, self.names.index(key), *words)
            for scope in key.scopes:
                pipe.zadd(self.names.listings(scope), {key.digest: now + keep_s})
                pipe.zremrangebyscore(self.names.listings(scope), "-inf", now)
                pipe.pexpire(self.names.listings(scope), self._remember_ms)
            # The rest only counts listings for whoever purges: where that fails the span is kept all the same.
            kept, *_ = await pipe.execute(raise_on_error=False)
            if isinstance(kept, RedisError):
                raise kept

    async def invalidate(self, scopes: Sequence[str], *, unsettled_s: float = 0.0, now: float) -> None:
        """See `SpanStore.invalidate`."""
        await self.generate(scopes, unsettled_s=unsettled_s, now=now)

    async def generate(self, scopes: Sequence[str], *, unsettled_s: float, now: float) -> dict[str, str]:
        """Give *scopes* new generations and return them. They are drawn, not counted: none ever comes again."""
        drawn = {scope: secrets.token_hex(8) for scope in scopes}
        async with self._translated() as redis, redis.pipeline(transaction=False) as pipe:
            for scope, generation in drawn.items():
                pipe.set(self.names.generation(scope), generation, px=self._remember_ms)
                pipe.delete(self.names.listings(scope))
            if unsettled_s > 0:
                pipe.set(self.names.unsettled, repr(now + unsettled_s), px=int(unsettled_s * 1000) or 1)
            await pipe.execute()
        return drawn

    async def told(self, script: str, message: bytes) -> int:
        """Tell all replicas *message* by *script*, and return how many have to acknowledge it."""
        async with self._translated() as redis:
            return int(await redis.eval(script, 1, self.names.replicas, self.names.channel, message))

    async def budgeted(self, scope: str, order: bytes, *, life: bytes) -> tuple[bytes, Any]:
        """Return which life of the budgets is kept here, *life* if none was, and what `budget.lua` says to *order*."""
        async with self._translated() as redis, redis.pipeline(transaction=False) as pipe:
            pipe.set(self.names.budgets, life, nx=True)
            pipe.get(self.names.budgets)
            pipe.eval(_SCRIPTS["budget"], 2, *self.names.budget(scope), order)
            _, kept, said = await pipe.execute()
        return kept, said

    async def count(self, scope: str, *, now: float) -> int:
        """See `SpanStore.count`."""
        async with self._translated() as redis:
            return int(await redis.zcount(self.names.listings(scope), now, "+inf"))

    async def shared_secret(self, candidate: bytes) -> bytes:
        """See `SpanStore.shared_secret`."""
        async with self._translated() as redis:
            await redis.set(self.names.secret, candidate, nx=True)
            secret = await redis.get(self.names.secret)
        return secret if isinstance(secret, bytes) and len(secret) >= 16 else candidate

    async def get(self, name: str) -> bytes | None:
        """Return the value of *name*."""
        async with self._translated() as redis:
            value = await redis.get(name)
        return value if isinstance(value, bytes) else None

    async def set(self, name: str, value: bytes, *, for_ms: int, new: bool = False) -> bool:
        """Give *name* this value for so long, and return whether that was done: if *new*, only where it has none."""
        async with self._translated() as redis:
            return bool(await redis.set(name, value, px=for_ms, nx=new))

    async def delete(self, name: str) -> None:
        """Take *name* and its value out."""
        async with self._translated() as redis:
            await redis.delete(name)

    async def ping(self) -> None:
        """See `SpanStore.ping`."""
        async with self._translated() as redis:
            await redis.ping()

    async def close(self) -> None:
        """See `SpanStore.close`."""
        await ended(self._renewals.values())
        await self.redis.aclose()

    async def _renewed(self, name: str, fence: int) -> None:
        """Hold the claim until cancelled, or until it is lost; a renewal that fails is tried again before it lapses."""
        while True:
            await asyncio.sleep(_CLAIM_MS / 4000)
            with suppress(StoreUnavailableError, TimeoutError):
                async with asyncio.timeout(_CLAIM_MS / 4000):
                    if not await self._run("settle", [name], [fence, _CLAIM_MS, "", ""]):
                        return

    async def _stated(
        self,
        key: ListingKey,
        script: str,
        keys: Sequence[str],
        words: Sequence[Word],
        *,
        now: float,
        begin: bool = False,
    ) -> tuple[State, Any]:
        """Return the state of *key* and what *script* returns, from one round trip.

        With *begin*, scopes that have no generation get one first.
        """
        scopes = [self.names.generation(scope) for scope in key.scopes]
        async with self._translated() as redis, redis.pipeline(transaction=False) as pipe:
            for scope in scopes if begin else ():
                pipe.set(scope, secrets.token_hex(8), px=self._remember_ms, nx=True)
            pipe.mget([*scopes, self.names.unsettled])
            pipe.eval(_SCRIPTS[script], len(keys), *keys, *words)
            *_, (*generations, unsettled), returned = await pipe.execute()
        drawn = (_drawn(each) for each in generations)
        return State(".".join(drawn), unsettled=now < _epoch_s(unsettled)), returned

    async def _run(self, script: str, keys: Sequence[str], words: Sequence[Word]) -> Any:
        async with self._translated() as redis:
            return await redis.eval(_SCRIPTS[script], len(keys), *keys, *words)

    @asynccontextmanager
    async def _translated(self) -> AsyncIterator[Redis]:
        """Make Redis' errors ours. Their texts stay out: they may quote a command."""
        try:
            yield self.redis
        except ResponseError as error:
            raise StoreRefusedError("redis: refused a command") from error
        except (RedisError, OSError, ValueError) as error:
            raise StoreUnavailableError(f"redis: {type(error).__name__}") from error


def _drawn(generation: bytes | None) -> str:
    """Return a generation as it was drawn; a foreign value is none."""
    return generation.decode() if generation and _GENERATION.fullmatch(generation) else "0"


def _epoch_s(value: bytes | None) -> float:
    try:
        return float(value or 0)
    except ValueError:
        return 0.0


def connected(url: str, *, prefix: str, keep_s: float, timeout_s: float, seal: Seal = codec.CHECKSUM) -> RedisStore:
    """Return a store in the Redis at *url*. Nothing is sent before the first call, no wait exceeds *timeout_s*.

    Retries are left to the next request: a store that is away must not hold one up twice. The client's own time limits
    are set as well as ours, for its clean-up after a cancelled call waits by them. What the client would tell Redis of
    itself is left out: it costs each connection 10 ms.
    """
    redis: Redis = Redis.from_url(
        url,
        socket_connect_timeout=timeout_s,
        socket_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        max_connections=256,
        protocol=2,
        driver_info=None,
    )
    return RedisStore(redis, prefix=prefix, keep_s=keep_s, seal=seal)
