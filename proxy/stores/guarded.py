"""A store that can't hold a request up: each call has a time limit, and one that fails is left alone for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from proxy.core.keys import ListingKey
from proxy.core.listing import Span
from proxy.errors import StoreUnavailableError
from proxy.stores.base import Found, SpanStore

Result = TypeVar("Result")

_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 10.0


class GuardedStore:
    """*store*, each call limited to *timeout_s*.

    After a failure the store is not asked again until a pause has passed, which doubles with each failure in a row; the
    first call after it is the probe, and others don't wait for how it ends. *clock* must not step back.
    """

    def __init__(
        self, store: SpanStore, *, timeout_s: float, clock: Callable[[], float], failed: Callable[[str], None]
    ) -> None:
        self._store = store
        self._timeout_s = timeout_s
        self._clock = clock
        self._failed = failed
        self._pause_s = _FIRST_PAUSE_S
        self._closed_until = 0.0

    @property
    def stored_bytes(self) -> int:
        """See `SpanStore.stored_bytes`."""
        return self._store.stored_bytes

    async def chain(self, key: ListingKey, after: str, count: int, *, now: float) -> Found:
        """See `SpanStore.chain`."""
        return await self._limited("chain", lambda: self._store.chain(key, after, count, now=now))

    async def put(self, key: ListingKey, span: Span, *, keep_s: float, now: float) -> None:
        """See `SpanStore.put`."""
        await self._limited("put", lambda: self._store.put(key, span, keep_s=keep_s, now=now))

    async def generation(self, key: ListingKey) -> str:
        """See `SpanStore.generation`."""
        return await self._limited("generation", lambda: self._store.generation(key))

    async def invalidate(self, *scopes: str) -> None:
        """See `SpanStore.invalidate`."""
        await self._limited("invalidate", lambda: self._store.invalidate(*scopes))

    async def shared_secret(self, candidate: bytes) -> bytes:
        """See `SpanStore.shared_secret`."""
        return await self._limited("shared_secret", lambda: self._store.shared_secret(candidate))

    async def ping(self) -> None:
        """See `SpanStore.ping`."""
        await self._limited("ping", self._store.ping)

    async def close(self) -> None:
        """See `SpanStore.close`."""
        await self._store.close()

    async def _limited(self, operation: str, call: Callable[[], Awaitable[Result]]) -> Result:
        now = self._clock()
        if now < self._closed_until:
            raise StoreUnavailableError("store: left alone after it failed")
        if self._closed_until:
            self._closed_until = now + self._pause_s  # this call is the probe
        try:
            async with asyncio.timeout(self._timeout_s):
                result = await call()
        except (StoreUnavailableError, TimeoutError) as error:
            self._failed(operation)
            self._closed_until = self._clock() + self._pause_s
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
            raise StoreUnavailableError(f"store: {operation} failed") from error
        self._closed_until, self._pause_s = 0.0, _FIRST_PAUSE_S
        return result
