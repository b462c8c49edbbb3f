"""What a process remembers for a while besides spans, bounded: the oldest goes first.

What the upstream refused a moment ago: it would refuse the same again.

Bodies in a content coding, made once and not once per request.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import replace
from math import floor
from typing import Final, Generic, TypeVar

from proxy.caching.collapsing import PER_CALL_FIELDS, RequestCollapser
from proxy.core.messages import Response
from proxy.http.conditional import compute_entity_tag
from proxy.http.negotiation import encode

Value = TypeVar("Value")


class TTLMap(Generic[Value]):
    """At most *max_items* values, each until its time is over."""

    def __init__(self, max_items: int) -> None:
        self._most = max_items
        self._values: OrderedDict[Hashable, tuple[Value, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Hashable, *, now: float) -> Value | None:
        """Return what is remembered for *key* at *now*, epoch seconds."""
        value, until = self._values.get(key, (None, 0.0))
        return value if now < until else None

    def put(self, key: Hashable, value: Value, *, until: float) -> None:
        """Remember *value* for *key* until then, epoch seconds."""
        self._values.pop(key, None)
        self._values[key] = (value, until)
        while len(self._values) > self._most:
            self._values.popitem(last=False)

    def forget(self, key: Hashable) -> None:
        """Remember nothing for *key*."""
        self._values.pop(key, None)


NEGATIVE_STATUSES: Final = frozenset({400, 404})
_MAX_ENTRIES: Final = 2_000
_MAX_BODY_BYTES: Final = 8 * 1024


class NegativeCache:
    """Remembers refusals for *ttl_s* seconds. *clock* gives epoch seconds."""

    def __init__(self, *, ttl_s: float, clock: Callable[[], float]) -> None:
        self._ttl_s = ttl_s
        self._clock = clock
        self._entries: TTLMap[tuple[Response, float]] = TTLMap(_MAX_ENTRIES)

    def get(self, key: Hashable) -> Response | None:
        """Return the refusal that is remembered under *key*, with its age (RFC 9111 §5.1)."""
        now = self._clock()
        kept = self._entries.get(key, now=now)
        if kept is None:
            return None
        response, kept_at = kept
        return replace(response, fields=response.fields.plus(("Age", str(floor(max(0.0, now - kept_at))))))

    def put(self, key: Hashable, response: Response) -> None:
        """Remember *response* under *key*, unless it is no refusal, is long, or sets a cookie.

        Fields that describe a single call, such as its request id, are left out.
        """
        brief = len(response.body) <= _MAX_BODY_BYTES and response.fields.get("set-cookie") is None
        if response.status in NEGATIVE_STATUSES and brief and self._ttl_s > 0:
            now = self._clock()
            kept = replace(response, fields=response.fields.without(("age", *PER_CALL_FIELDS)))
            self._entries.put(key, (kept, now), until=now + self._ttl_s)


_OFF_LOOP_BYTES: Final = 64 * 1024
_OVERHEAD_BYTES: Final = 200


class BodyEncoder:
    """Codes bodies: a long one in a thread, once for all who ask for it meanwhile."""

    def __init__(self) -> None:
        self._under_way: RequestCollapser[bytes] = RequestCollapser()

    async def encode(self, key: Hashable, body: bytes, coding: str) -> bytes:
        """Return *body* in *coding*; *key* identifies this body in this coding."""
        if len(body) < _OFF_LOOP_BYTES:
            return encode(body, coding)
        return await self._under_way.join(key, lambda: asyncio.to_thread(encode, body, coding))

    async def close(self) -> None:
        """End what is under way; nobody waits for it any more."""
        await self._under_way.close()


class EncodedBodies:
    """The latest bodies that were coded, *max_bytes* of them, by what they were before."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bodies: OrderedDict[tuple[str, str, str], bytes] = OrderedDict()
        self._bytes = 0
        self._coder = BodyEncoder()

    async def close(self) -> None:
        """End what is under way."""
        await self._coder.close()

    async def get_or_encode(self, key: str, plain: bytes, coding: str) -> bytes:
        """Return *plain*, a body of the resource *key*, in *coding*.

        It is identified by its bytes: an upstream may give one entity tag to several bodies that it takes for equal.
        """
        at = (key, compute_entity_tag(plain), coding)
        found = self._bodies.get(at)
        if found is not None:
            self._bodies.move_to_end(at)
            return found
        made = await self._coder.encode(at, plain, coding)
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
