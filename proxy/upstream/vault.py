"""A secret that replicas share, in Redis: encrypted whatever `store.seal` is, for it opens more than lists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from proxy.storage.circuit_breaker import CircuitBreaker
from proxy.storage.redis import RedisStore
from proxy.storage.sealing import Encryption

# Longer than IAM takes to answer; a replica that died while it asked holds the others up for no longer.
_CLAIM_MS: Final = 5_000


class RedisVault:
    """A `proxy.upstream.login.Vault` in the Redis of *store*, under the first of *keys*.

    *named* gives what the secret for an order is kept under. Raises `ImportError` without `cryptography`.
    """

    def __init__(
        self,
        store: RedisStore,
        named: Callable[[str], str],
        keys: Sequence[bytes],
        *,
        breaker: CircuitBreaker,
        timeout_s: float,
    ) -> None:
        self._store = store
        self._named = named
        self._seal = Encryption(keys)
        self._breaker = breaker
        self._timeout_s = timeout_s

    async def kept(self, order: str) -> bytes | None:
        """See `Vault.kept`; what was altered, or sealed by another key, is nothing."""
        name = self._store.names.own(self._named(order))
        value = await self._breaker.call("vault", lambda: self._store.get(name), timeout_s=self._timeout_s)
        return None if value is None else self._seal.opened(value, name=name.encode(), bound=b"")

    async def keep(self, order: str, value: bytes, *, for_s: float) -> None:
        """See `Vault.keep`; it ends the claim. That of a claimant which got no token has to lapse."""
        name, for_ms = self._store.names.own(self._named(order)), int(for_s * 1000)
        if for_ms > 0:
            sealed = self._seal.closed(value, name=name.encode(), bound=b"")
            limit_s = self._timeout_s
            await self._breaker.call("vault", lambda: self._store.set(name, sealed, for_ms=for_ms), timeout_s=limit_s)
            await self._breaker.call("vault", lambda: self._store.delete(_claim(name)), timeout_s=limit_s)

    async def claimed(self, order: str) -> bool:
        """See `Vault.claimed`."""
        name = _claim(self._store.names.own(self._named(order)))
        return await self._breaker.call(
            "vault", lambda: self._store.set(name, b"", for_ms=_CLAIM_MS, new=True), timeout_s=self._timeout_s
        )


def _claim(name: str) -> str:
    return f"{name}:c"
