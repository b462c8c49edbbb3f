"""The store protocol. One contract suite runs over every implementation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from proxy.core.keys import ListingKey
from proxy.core.listing import Piece, Span


@dataclass(frozen=True, slots=True)
class Found:
    """What a store has of a window: pieces that follow each other without a gap, and the listing's generation now.

    A piece whose span has another generation was invalidated since it was fetched.
    """

    pieces: tuple[Piece, ...]
    generation: str


class SpanStore(Protocol):
    """Keeps spans by listing and marker. Every method may raise `StoreUnavailableError`."""

    async def chain(self, key: ListingKey, after: str, count: int, *, now: float) -> Found:
        """Return the pieces that follow the marker *after*, up to *count* images or the first gap; stale ones too."""
        ...

    async def put(self, key: ListingKey, span: Span, *, keep_s: float, now: float) -> None:
        """Keep *span* for *keep_s* seconds, replacing the one that starts at the same marker.

        *keep_s* covers the stale windows too, so it may exceed the lifetime that callers see.
        """
        ...

    async def generation(self, key: ListingKey) -> str:
        """Return the listing's generation: it changes with every invalidation that touches the listing."""
        ...

    async def invalidate(self, *scopes: str) -> None:
        """Make every span stored so far under one of *scopes* unusable, in a time that does not depend on how many."""
        ...

    async def shared_secret(self, candidate: bytes) -> bytes:
        """Return the secret that all replicas use: *candidate*, unless another was there first."""
        ...

    async def ping(self) -> None:
        """Return if the store answers."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...

    @property
    def stored_bytes(self) -> int:
        """About how many bytes of process memory are taken."""
        ...
