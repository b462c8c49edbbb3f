"""The store protocol. One contract suite runs over every implementation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Protocol

from proxy.core.cache_key import CacheKey
from proxy.core.span import Span, SpanSlice
from proxy.core.values import immutable


@immutable
class ListingState:
    """The state of a listing after the invalidations so far.

    *generation* changes with every invalidation that touches the listing: a span of another one was fetched before it.
    *changes_pending* says that a write has lately begun a job whose end will change lists again.
    """

    generation: str
    changes_pending: bool = False


@immutable
class FoundSpans:
    """What a store has of a window: pieces that follow each other without a gap, whatever they may still be used for.

    *marker_span_limit* is how many rows were asked for with the span that holds the window's marker, 0 where no such
    span is known; a caller with such a marker is paging.

    While invalidations by other replicas may go unheard, *uncertainty* is not empty: it changes every now and then, and
    what was learnt under another doubt is not used. Then only a fetch that began at *join_after* or later may be
    joined, by the event loop's clock, and *unconfirmed* are the pieces of memory that may have been invalidated: they
    are for a caller who gets nothing else, because no call may be made.
    """

    slices: tuple[SpanSlice, ...]
    state: ListingState
    marker_span_limit: int = 0
    uncertainty: str = ""
    join_after: float = -inf
    unconfirmed: tuple[SpanSlice, ...] = ()

    @property
    def as_last_resort(self) -> FoundSpans:
        """The same with the pieces that can't be confirmed now, for a caller who otherwise gets nothing."""
        return replace(self, slices=self.unconfirmed) if self.unconfirmed else self

    @property
    def knowledge(self) -> str:
        """Stands for what is known of invalidations now; a refusal is shared only among callers who found the same."""
        return self.state.generation + self.uncertainty


@immutable
class FetchLock:
    """A lock on fetching the span after a marker.

    *fence* grows with every lock on the listing: a span fetched under a lower one does not replace one fetched under a
    higher. It is None if another replica holds the lock. *is_stored* says that a span is stored after the marker,
    perhaps a later one than the caller has seen.
    """

    state: ListingState
    fence: int | None
    is_stored: bool = False


@immutable
class Health:
    """How a store is: each of its *parts* is `ok`, or what is wrong with it; and what process memory holds.

    *replicas* is how many processes share the store, this one included, as far as it knows.
    """

    parts: Mapping[str, str]
    listings: int
    spans: int
    replicas: int = 1


class SpanStorage(Protocol):
    """Keeps spans by listing and marker. Every method may raise `StoreUnavailableError`."""

    async def lookup(self, key: CacheKey, marker: str, count: int, *, can_join: bool = True, now: float) -> FoundSpans:
        """Return the pieces that follow *marker*, up to *count* images or the first gap.

        Of spans that go on behind a marker the one fetched later is taken. Unless *can_join* it is one piece at most,
        and one that holds *count* images or ends the listing goes before one that does not.
        """
        ...

    async def find_image(self, key: CacheKey, image_id: str, *, now: float) -> SpanSlice | None:
        """Return the span that holds the image *image_id*, from behind that image on."""
        ...

    async def put(self, key: CacheKey, span: Span, *, keep_s: float, now: float, fence: int = 0) -> None:
        """Keep *span* for *keep_s* seconds, replacing the one that starts at the same marker.

        *keep_s* covers the stale windows too, so it exceeds the lifetime that callers see.
        """
        ...

    def note_use(self, key: CacheKey, markers: Sequence[str]) -> None:
        """Note that the spans of *key* after the markers *markers* were used again without the store being asked."""
        ...

    async def count_listings(self, tag: str, *, now: float) -> int:
        """Return how many listings are kept under *tag*, about."""
        ...

    @property
    def stored_bytes(self) -> int:
        """About how many bytes of process memory are taken."""
        ...


class Coordinator(Protocol):
    """What replicas agree on: who fetches, what is invalidated, and their secret.

    Every method may raise `StoreUnavailableError`.
    """

    async def acquire_lock(self, key: CacheKey, marker: str, *, now: float) -> FetchLock:
        """Try to take the lock on fetching the span after *marker*."""
        ...

    async def release_lock(self, key: CacheKey, marker: str, lock: FetchLock) -> None:
        """Release the lock if it is still held, and wake those who wait for it."""
        ...

    async def wait_for_release(self, key: CacheKey, marker: str, *, timeout_s: float) -> bool:
        """Return True as soon as the lock that another replica holds is released or may have been lost.

        False after *timeout_s*, or sooner if no replica could tell: then try to take the lock again. A silent holder
        loses its lock to the next that asks.
        """
        ...

    async def invalidate(self, tags: Sequence[str], *, pending_s: float = 0.0, now: float) -> None:
        """Make the spans stored so far under one of *tags* unusable, in a time that does not depend on how many.

        When it returns, no replica uses them any more. For *pending_s* from now on every listing counts as unsettled.
        """
        ...

    async def shared_secret(self, candidate: bytes) -> bytes:
        """Return the secret that all replicas use: *candidate*, unless another was there first."""
        ...

    @property
    def epoch(self) -> int | None:
        """A number that changes when answers given so far may no longer be repeated without asking the store.

        None while invalidations by other replicas can't be heard of.
        """
        ...


class SpanStore(SpanStorage, Coordinator, Protocol):
    """A whole store: what it keeps, what replicas agree on through it, and its own state."""

    async def ping(self) -> None:
        """Return once the store has answered."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...

    def health(self) -> Health:
        """Return how the store is, by what is known here without asking anybody."""
        ...
