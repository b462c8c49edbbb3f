"""One login for all replicas: who has none takes the token that another fetched.

1. A has no token, or one that is about to end. Nothing newer is kept, so it claims the login, asks IAM, and keeps the
   token, sealed.
2. B comes meanwhile, finds no token and the claim taken, and looks again until A's token is there.
3. A dies on the way: its claim lapses, and B logs in. Where the store is away every replica does.
4. The upstream refuses a token that was revoked: who is told so takes any other than that one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Protocol

import orjson

from proxy.errors import StoreUnavailableError
from proxy.upstream.keystone import Issued

_LOOKS: Final = 50
_LOOK_S: Final = 0.1


class Vault(Protocol):
    """Keeps a secret for all replicas, such that nobody else can read it: one for each *order*.

    Every method may raise `StoreUnavailableError`.
    """

    async def kept(self, order: str) -> bytes | None:
        """Return what is kept."""
        ...

    async def keep(self, order: str, value: bytes, *, for_s: float) -> None:
        """Keep *value* in the place of what was, for so long."""
        ...

    async def claimed(self, order: str) -> bool:
        """Whether it is for who asks to replace what is kept: nobody else is told so for a while."""
        ...


class SharedLogin:
    """Gives tokens that *issue* fetches for an order, once for all who share *vault*; *clock* gives epoch seconds."""

    def __init__(self, issue: Callable[[str], Awaitable[Issued]], vault: Vault, *, clock: Callable[[], float]) -> None:
        self._issue = issue
        self._vault = vault
        self._clock = clock

    async def issued(self, order: str, refused: str | None) -> Issued:
        """Return a token for *order* other than the *refused* one."""
        with suppress(StoreUnavailableError):
            for _ in range(_LOOKS):
                kept = _read(await self._vault.kept(order))
                if kept is not None and kept.token != refused and self._clock() < kept.renew_at:
                    return kept
                if await self._vault.claimed(order):
                    break
                await asyncio.sleep(_LOOK_S)
        issued = await self._issue(order)
        with suppress(StoreUnavailableError):
            await self._vault.keep(order, _written(issued), for_s=issued.expires_at - self._clock())
        return issued


def _written(issued: Issued) -> bytes:
    return orjson.dumps([issued.token, issued.issued_at, issued.expires_at])


def _read(value: bytes | None) -> Issued | None:
    """Return the token in *value*, which is our own writing: nobody else can seal one."""
    return Issued(*orjson.loads(value)) if value is not None else None
