"""Who has acknowledged a message: each is waited for by name, for one can't answer for another."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from collections.abc import Set as AbstractSet


class Acknowledged:
    """Those who have acknowledged one message."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._more = asyncio.Event()

    def by(self, name: str) -> None:
        """The replica *name* has, now or before."""
        self._names.add(name)
        self._more.set()

    async def by_all(self, names: AbstractSet[str], *, count: int) -> None:
        """Return when all of *names* have, and *count* in all."""
        while not (names <= self._names and len(self._names) >= count):
            self._more.clear()
            await self._more.wait()


def replicas(names: Iterable[bytes]) -> set[str]:
    """Return the names of replicas; what is no text was put there by somebody else, and answers to nothing."""
    return {name.decode() for name in names if name.isascii()}
