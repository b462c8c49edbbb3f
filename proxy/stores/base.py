"""The store protocol. One contract suite runs over every implementation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from proxy.core.keys import ListingKey
from proxy.core.listing import Mark, Piece, Span
from proxy.core.values import immutable


@immutable
class State:
    """What invalidations have made of a listing.

    *generation* changes with every invalidation that touches the listing: a span of another one was fetched before it.
    *unsettled* says that a write has lately begun a job whose end will change lists again.
    """

    generation: str
    unsettled: bool = False


@immutable
class Found:
    """What a store has of a window: pieces that follow each other without a gap, whatever they may still be used for.

    *behind* is how many rows were asked for when the span that holds the window's marker was fetched, 0 where none is
    known: a caller with such a marker is paging. *doubt* is not empty while invalidations may go unheard, and changes
    with time: a fetch that began under another one is not joined.
    """

    pieces: tuple[Piece, ...]
    state: State
    behind: int = 0
    doubt: str = ""

    @property
    def moment(self) -> str:
        """What a fetch, or an answer remembered otherwise, has in common with those it may be shared with."""
        return self.state.generation + self.doubt


@immutable
class Claim:
    """Leave to fetch the span after a marker, while no other replica does.

    *fence* grows with every claim on the listing, and a span fetched under a lower one does not replace that of a
    higher one; None where another replica holds the claim. *there* says that a span is kept behind the marker, which
    may be a later one than whoever claims has seen.
    """

    state: State
    fence: int | None
    there: bool = False


@immutable
class Health:
    """How a store is: each of its *parts* is `ok`, or what is wrong with it; and what process memory holds.

    *replicas* is how many processes share the store, this one included, as far as it knows.
    """

    parts: Mapping[str, str]
    listings: int
    spans: int
    replicas: int = 1


class SpanStore(Protocol):
    """Keeps spans by listing and marker. Every method may raise `StoreUnavailableError`."""

    async def chain(self, key: ListingKey, after: str, count: int, *, joinable: bool = True, now: float) -> Found:
        """Return the pieces that follow the marker *after*, up to *count* images or the first gap.

        Of spans that go on behind a marker the one fetched later is taken. Unless *joinable* it is one piece at most,
        and one that holds *count* images or ends the listing goes before one that does not.
        """
        ...

    async def bodies(self, key: ListingKey, marks: Sequence[Mark], *, now: float) -> Sequence[bytes] | None:
        """Return the bodies of the spans of *key* that are marked so, None unless all are as they were, and valid."""
        ...

    async def holding(self, key: ListingKey, image_id: str, *, now: float) -> Piece | None:
        """Return the span that holds the image *image_id*, from behind that image on."""
        ...

    async def claim(self, key: ListingKey, after: str, *, now: float) -> Claim:
        """Ask for leave to fetch the span after the marker *after*."""
        ...

    async def settle(self, key: ListingKey, after: str, claim: Claim) -> None:
        """Give the claim back, if it is still held, and wake who waits for it."""
        ...

    async def settled(self, key: ListingKey, after: str, *, timeout_s: float) -> None:
        """Return when the claim that another replica holds is given back or has expired, or after *timeout_s*."""
        ...

    async def put(self, key: ListingKey, span: Span, *, keep_s: float, now: float, fence: int = 0) -> None:
        """Keep *span* for *keep_s* seconds, replacing the one that starts at the same marker.

        *keep_s* covers the stale windows too, so it exceeds the lifetime that callers see.
        """
        ...

    def used(self, key: ListingKey, starts: Sequence[str]) -> None:
        """Spans of *key*, which start after the markers *starts*, were given again without the store being asked."""
        ...

    async def invalidate(self, scopes: Sequence[str], *, unsettled_s: float = 0.0, now: float) -> None:
        """Make the spans stored so far under one of *scopes* unusable, in a time that does not depend on how many.

        When it returns, no replica uses them any more. For *unsettled_s* from now on every listing counts as unsettled.
        """
        ...

    async def count(self, scope: str, *, now: float) -> int:
        """Return how many listings are kept under *scope*, about."""
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
    def epoch(self) -> int | None:
        """A number that changes with whatever makes answers given so far unfit to be given again unasked.

        None while what other replicas invalidate can't be heard of.
        """
        ...

    @property
    def stored_bytes(self) -> int:
        """About how many bytes of process memory are taken."""
        ...

    def health(self) -> Health:
        """Return how the store is, by what is known here without asking anybody."""
        ...
