"""Spans in Redis or Valkey. Redis TTLs do the expiring; the scripts beside this file do a window in one round trip."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from proxy.core.keys import ListingKey
from proxy.core.listing import Piece, Span
from proxy.errors import StoreUnavailableError
from proxy.stores import codec
from proxy.stores.base import Found

_MAX_SPANS: Final = 64
_MAX_INDEX: Final = 250_000
_SCRIPTS: Final = {name: files("proxy.stores").joinpath(f"{name}.lua").read_text() for name in ("chain", "put")}


class RedisStore:
    """A `SpanStore` in Redis. Keys: `{prefix}{listing}:s:{marker}`, `…:i`, `{prefix}g:{scope}`, `{prefix}secret`.

    The braces that Redis Cluster hashes by stand around the listing, so one listing lives on one node.
    """

    stored_bytes = 0

    def __init__(self, redis: Redis, *, prefix: str) -> None:
        self._redis = redis
        self._prefix = prefix
        self._hashes: dict[str, str] = {}

    async def chain(self, key: ListingKey, after: str, count: int, *, now: float) -> Found:  # noqa: ARG002 - Redis expires by its own clock
        """See `SpanStore.chain`."""
        spans = self._spans(key)
        generations, found = await self._asked(key, "chain", [self._index(key)], [spans, after, count, _MAX_SPANS])
        pieces: list[Piece] = []
        for position, start, value in zip(found[::3], found[1::3], found[2::3], strict=True):
            span = codec.decode(value, key=spans.encode() + start)
            if span is None or (position and span.ids[position - 1] != after):
                break
            pieces.append(Piece(span, position))
            if span.end is None:
                break
            after = span.end
        return Found(tuple(pieces), _joined(generations))

    async def put(self, key: ListingKey, span: Span, *, keep_s: float, now: float) -> None:  # noqa: ARG002
        """See `SpanStore.put`."""
        keep_ms = int(keep_s * 1000)
        if keep_ms <= 0:
            return
        name = self._spans(key) + span.after
        value = codec.encode(span, key=name.encode())
        await self._run("put", [name, self._index(key)], [value, keep_ms, span.after, _MAX_INDEX, *span.ids])

    async def generation(self, key: ListingKey) -> str:
        """See `SpanStore.generation`."""
        try:
            return _joined(await self._redis.mget(self._scopes(key)))
        except (RedisError, OSError) as error:
            raise StoreUnavailableError(str(error)) from error

    async def invalidate(self, *scopes: str) -> None:
        """See `SpanStore.invalidate`."""
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                for scope in scopes:
                    pipe.incr(f"{self._prefix}g:{scope}")
                await pipe.execute()
        except (RedisError, OSError) as error:
            raise StoreUnavailableError(str(error)) from error

    async def shared_secret(self, candidate: bytes) -> bytes:
        """See `SpanStore.shared_secret`."""
        name = f"{self._prefix}secret"
        try:
            await self._redis.set(name, candidate, nx=True)
            secret = await self._redis.get(name)
        except (RedisError, OSError) as error:
            raise StoreUnavailableError(str(error)) from error
        return secret if isinstance(secret, bytes) and len(secret) >= 16 else candidate

    async def ping(self) -> None:
        """See `SpanStore.ping`."""
        try:
            await self._redis.ping()
        except (RedisError, OSError) as error:
            raise StoreUnavailableError(str(error)) from error

    async def close(self) -> None:
        """See `SpanStore.close`."""
        await self._redis.aclose()

    def _spans(self, key: ListingKey) -> str:
        return f"{self._prefix}{{{key.digest}}}:s:"

    def _index(self, key: ListingKey) -> str:
        return f"{self._prefix}{{{key.digest}}}:i"

    def _scopes(self, key: ListingKey) -> list[str]:
        return [f"{self._prefix}g:{scope}" for scope in key.scopes]

    async def _asked(
        self, key: ListingKey, script: str, keys: Sequence[str], args: Sequence[str | int]
    ) -> tuple[list[bytes | None], list[Any]]:
        """Return the generations of *key* and what *script* returns, from one round trip."""
        for _ in range(2):
            try:
                async with self._redis.pipeline(transaction=False) as pipe:
                    pipe.mget(self._scopes(key))
                    pipe.evalsha(await self._hash(script), len(keys), *keys, *args)
                    generations, found = await pipe.execute()
            except NoScriptError:
                self._hashes.pop(script)  # Redis restarted since the script was loaded
                continue
            except (RedisError, OSError) as error:
                raise StoreUnavailableError(str(error)) from error
            return generations, found
        raise StoreUnavailableError(f"script {script}: lost twice")

    async def _run(self, script: str, keys: Sequence[str], args: Sequence[str | int | bytes]) -> None:
        for _ in range(2):
            try:
                await self._redis.evalsha(await self._hash(script), len(keys), *keys, *args)
            except NoScriptError:
                self._hashes.pop(script)
                continue
            except (RedisError, OSError) as error:
                raise StoreUnavailableError(str(error)) from error
            return

    async def _hash(self, script: str) -> str:
        if script not in self._hashes:
            self._hashes[script] = await self._redis.script_load(_SCRIPTS[script])
        return self._hashes[script]


def _joined(generations: Sequence[bytes | str | None]) -> str:
    counts = (b"0" if count is None else count for count in generations)
    return ".".join(count.decode() if isinstance(count, bytes) else count for count in counts)


def connected(url: str, *, prefix: str, connect_s: float) -> RedisStore:
    """Return a store in the Redis at *url*; nothing is sent before the first call.

    Retries are left to the next request: a store that is away must not hold one up twice.
    """
    redis: Redis = Redis.from_url(
        url, socket_connect_timeout=connect_s, retry=Retry(NoBackoff(), 0), max_connections=256
    )
    return RedisStore(redis, prefix=prefix)
