"""Bounded caches beside storage: refusals of the upstream, bodies in a content coding, and a TTL map."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import replace
from math import floor
from typing import Final, Generic, TypeVar

from cachetools import LRUCache

from proxy.caching.collapsing import PER_CALL_FIELDS, RequestCollapser
from proxy.core.messages import Response
from proxy.http.conditional import compute_entity_tag
from proxy.http.negotiation import encode

Value = TypeVar("Value")


class TTLMap(Generic[Value]):
    """At most *max_items* values, each until its own time (epoch seconds); the least recently used is evicted."""

    def __init__(self, max_items: int) -> None:
        self._items: LRUCache[Hashable, tuple[Value, float]] = LRUCache(max_items)

    def __len__(self) -> int:
        return len(self._items)

    def get(self, key: Hashable, *, now: float) -> Value | None:
        value, until = self._items.get(key, (None, 0.0))
        return value if now < until else None

    def put(self, key: Hashable, value: Value, *, until: float) -> None:
        self._items[key] = (value, until)

    def forget(self, key: Hashable) -> None:
        self._items.pop(key, None)


NEGATIVE_STATUSES: Final = frozenset({400, 404})
_MAX_ENTRIES: Final = 2_000
_MAX_BODY_BYTES: Final = 8 * 1024


class NegativeCache:
    """Keeps 400 and 404 responses for *ttl_s* seconds. *clock* gives epoch seconds."""

    def __init__(self, *, ttl_s: float, clock: Callable[[], float]) -> None:
        self._ttl_s = ttl_s
        self._clock = clock
        self._entries: TTLMap[tuple[Response, float]] = TTLMap(_MAX_ENTRIES)

    def get(self, key: Hashable) -> Response | None:
        """Return the response under *key* with its `Age` (RFC 9111 §5.1)."""
        now = self._clock()
        entry = self._entries.get(key, now=now)
        if entry is None:
            return None
        response, kept_at = entry
        return replace(response, fields=response.fields.plus(("Age", str(floor(max(0.0, now - kept_at))))))

    def put(self, key: Hashable, response: Response) -> None:
        """Keep *response*, unless it has another status, a long body or a cookie. Per-call fields are left out."""
        if response.status not in NEGATIVE_STATUSES or self._ttl_s <= 0:
            return
        if len(response.body) > _MAX_BODY_BYTES or response.fields.get("set-cookie") is not None:
            return
        now = self._clock()
        kept = replace(response, fields=response.fields.without(("age", *PER_CALL_FIELDS)))
        self._entries.put(key, (kept, now), until=now + self._ttl_s)


_OFF_LOOP_BYTES: Final = 64 * 1024
_OVERHEAD_BYTES: Final = 200


class BodyEncoder:
    """Encodes bodies, long ones in a thread, once for all who ask for the same meanwhile."""

    def __init__(self) -> None:
        self._collapser: RequestCollapser[bytes] = RequestCollapser()

    async def encode(self, key: Hashable, body: bytes, coding: str) -> bytes:
        """Return *body* in *coding*; *key* identifies the two."""
        if len(body) < _OFF_LOOP_BYTES:
            return encode(body, coding)
        return await self._collapser.join(key, lambda: asyncio.to_thread(encode, body, coding))

    async def close(self) -> None:
        await self._collapser.close()


class EncodedBodies:
    """The latest encoded bodies, *max_bytes* of them."""

    def __init__(self, max_bytes: int) -> None:
        self._bodies: LRUCache[tuple[str, str, str], bytes] = LRUCache(
            max_bytes, getsizeof=lambda body: len(body) + _OVERHEAD_BYTES
        )
        self._encoder = BodyEncoder()

    async def close(self) -> None:
        await self._encoder.close()

    async def get_or_encode(self, key: str, plain: bytes, coding: str) -> bytes:
        """Return *plain*, a body of the resource *key*, in *coding*.

        A body is identified by its bytes: an upstream may give one entity tag to bodies that it takes for equal.
        """
        at = (key, compute_entity_tag(plain), coding)
        encoded = self._bodies.get(at)
        if encoded is None:
            encoded = await self._encoder.encode(at, plain, coding)
            with suppress(ValueError):  # it is larger than the whole cache
                self._bodies[at] = encoded
        return encoded
