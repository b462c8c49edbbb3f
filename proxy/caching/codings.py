"""Bodies in a content coding, made once and not once per request."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

from proxy.caching.collapsing import Coalescer
from proxy.http.coding import encoded
from proxy.http.validators import entity_tag

_OFF_LOOP_BYTES: Final = 64 * 1024
_OVERHEAD_BYTES: Final = 200


class Coder:
    """Codes bodies: a long one in a thread, once for all who ask for it meanwhile."""

    def __init__(self) -> None:
        self._under_way: Coalescer[bytes] = Coalescer()

    async def coded(self, at: Hashable, body: bytes, coding: str) -> bytes:
        """Return *body* in *coding*; *at* identifies this body in this coding."""
        if len(body) < _OFF_LOOP_BYTES:
            return encoded(body, coding)
        return await self._under_way.join(at, lambda: asyncio.to_thread(encoded, body, coding))

    async def close(self) -> None:
        """End what is under way; nobody waits for it any more."""
        await self._under_way.close()


class CodedBodies:
    """The latest bodies that were coded, *max_bytes* of them, by what they were before."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bodies: OrderedDict[tuple[str, str, str], bytes] = OrderedDict()
        self._bytes = 0
        self._coder = Coder()

    async def close(self) -> None:
        """End what is under way."""
        await self._coder.close()

    async def body(self, key: str, plain: bytes, coding: str) -> bytes:
        """Return *plain*, a body of the resource *key*, in *coding*.

        It is identified by its bytes: an upstream may give one entity tag to several bodies that it takes for equal.
        """
        at = (key, entity_tag(plain), coding)
        found = self._bodies.get(at)
        if found is not None:
            self._bodies.move_to_end(at)
            return found
        made = await self._coder.coded(at, plain, coding)
        self._forget(at)  # another caller may have had it coded meanwhile
        self._bodies[at] = made
        self._bytes += len(made) + _OVERHEAD_BYTES
        while self._bytes > self._max_bytes and self._bodies:
            self._forget(next(iter(self._bodies)))
        return made

    def _forget(self, at: tuple[str, str, str]) -> None:
        gone = self._bodies.pop(at, None)
        if gone is not None:
            self._bytes -= len(gone) + _OVERHEAD_BYTES
