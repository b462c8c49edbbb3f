"""Bodies in a content coding, made once and not once per request."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final

from proxy.core.coding import encoded
from proxy.core.validators import entity_tag

_OFF_LOOP_BYTES: Final = 64 * 1024
_OVERHEAD_BYTES: Final = 200


async def coded(body: bytes, coding: str) -> bytes:
    """Return *body* in *coding*; a long one does not hold up the loop."""
    if len(body) < _OFF_LOOP_BYTES:
        return encoded(body, coding)
    return await asyncio.to_thread(encoded, body, coding)


class CodedBodies:
    """The latest bodies that were coded, *max_bytes* of them, by what they were before."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bodies: OrderedDict[tuple[str, str, str], bytes] = OrderedDict()
        self._bytes = 0

    async def body(self, key: str, plain: bytes, coding: str) -> bytes:
        """Return *plain*, a body of the resource *key*, in *coding*.

        It is known by its bytes: an upstream's own entity tag may stand for several bodies that it takes for equal.
        """
        at = (key, entity_tag(plain), coding)
        found = self._bodies.get(at)
        if found is not None:
            self._bodies.move_to_end(at)
            return found
        made = await coded(plain, coding)
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
