"""Spans in process memory: bounded in bytes, the least recently used go first."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass

from proxy.core.keys import ListingKey
from proxy.core.listing import Piece, Span, chain
from proxy.stores.base import Found


@dataclass(frozen=True, slots=True)
class _Kept:
    span: Span
    until: float


class MemoryStore:
    """A `SpanStore` in this process. A span larger than *max_bytes* is not kept."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[tuple[str, str], _Kept] = OrderedDict()
        # listing -> image -> (marker that the image's span starts after, position behind the image)
        self._homes: dict[str, dict[str, tuple[str, int]]] = {}
        self._generations: Counter[str] = Counter()
        self._stored_bytes = 0

    @property
    def stored_bytes(self) -> int:
        """About how many bytes the spans take."""
        return self._stored_bytes

    async def chain(self, key: ListingKey, after: str, count: int, *, now: float) -> Found:
        """See `SpanStore.chain`."""
        pieces = chain(after, count, lambda marker: self._piece(key.digest, marker, now))
        return Found(tuple(pieces), self._generation(key))

    async def put(self, key: ListingKey, span: Span, *, keep_s: float, now: float) -> None:
        """See `SpanStore.put`."""
        if span.size_bytes > self._max_bytes or keep_s <= 0:
            return
        self._drop((key.digest, span.after))
        self._kept[key.digest, span.after] = _Kept(span, now + keep_s)
        self._stored_bytes += span.size_bytes
        homes = self._homes.setdefault(key.digest, {})
        for position, image_id in enumerate(span.ids, 1):
            homes[image_id] = (span.after, position)
        while self._stored_bytes > self._max_bytes:
            self._drop(next(iter(self._kept)))

    async def generation(self, key: ListingKey) -> str:
        """See `SpanStore.generation`."""
        return self._generation(key)

    async def invalidate(self, *scopes: str) -> None:
        """See `SpanStore.invalidate`."""
        self._generations.update(scopes)

    async def shared_secret(self, candidate: bytes) -> bytes:
        """See `SpanStore.shared_secret`: here there is nobody to share it with."""
        return candidate

    async def ping(self) -> None:
        """See `SpanStore.ping`."""

    async def close(self) -> None:
        """See `SpanStore.close`."""

    def _generation(self, key: ListingKey) -> str:
        return ".".join(str(self._generations[scope]) for scope in key.scopes)

    def _piece(self, listing: str, marker: str, now: float) -> Piece | None:
        """Return what follows *marker*: the span that starts there, or the rest of one that holds that image.

        Of the two, the one fetched later.
        """
        found: Piece | None = None
        if kept := self._alive((listing, marker), now):
            found = Piece(kept.span, 0)
        home = self._homes.get(listing, {}).get(marker)
        if home and (kept := self._alive((listing, home[0]), now)):
            after_image = Piece(kept.span, home[1])
            leads_on = after_image.count > 0 or kept.span.end != marker
            if leads_on and (found is None or kept.span.fetched_at > found.span.fetched_at):
                found = after_image
        return found

    def _alive(self, at: tuple[str, str], now: float) -> _Kept | None:
        kept = self._kept.get(at)
        if kept is None:
            return None
        if kept.until <= now:
            self._drop(at)
            return None
        self._kept.move_to_end(at)
        return kept

    def _drop(self, at: tuple[str, str]) -> None:
        kept = self._kept.pop(at, None)
        if kept is None:
            return
        self._stored_bytes -= kept.span.size_bytes
        listing, after = at
        homes = self._homes[listing]
        for image_id in kept.span.ids:
            if homes.get(image_id, ("", 0))[0] == after:
                del homes[image_id]
        if not homes:
            del self._homes[listing]
