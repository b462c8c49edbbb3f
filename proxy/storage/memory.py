"""Spans in process memory: bounded in bytes; what is asked for often outlives what is asked for once.

Which of a listing's spans hold an image.

Spans of a listing overlap: where no page may be joined, one that crosses two spans is fetched anew, and callers with
other limits cut elsewhere. An image may then stand in many spans, and two of them are known here, whatever the order in
which they came:

- the one put last;
- the one that reached farthest behind the image when that was put, of those that were fresh then and that nothing had
  invalidated, if it reaches farther than the one put last.

So a window that lies in one span can be answered from one span for as long as that is fresh: what is put later takes
its place only if it reaches at least as far. `put.lua` does the same in Redis.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count, repeat
from itertools import count as counted
from typing import Final

from proxy.core.cache_key import CacheKey
from proxy.core.freshness import current_age
from proxy.core.span import Span, SpanSlice, choose_slice, follow_slices
from proxy.core.values import immutable
from proxy.storage.base import FetchLock, FoundSpans, Health, ListingState
from proxy.storage.segmented_lru import SegmentedLRU

ImagePosition = tuple[str, int]  # the marker that a span starts after, and the position behind the image there


class ImageIndex:
    """Knows in which spans the images of one listing stand."""

    def __init__(self) -> None:
        self._positions: dict[str, tuple[ImagePosition, ...]] = {}

    def __len__(self) -> int:
        return len(self._positions)

    def find(self, image_id: str) -> tuple[ImagePosition, ...]:
        """Return where the image stands, at most twice: the span put last comes first."""
        return self._positions.get(image_id, ())

    def add(self, span: Span, as_good: Callable[[str], Span | None]) -> None:
        """Note that the images of *span* stand in it. *as_good* gives the span kept after a marker, if it is as
        good.
        """
        if self._positions.keys().isdisjoint(
            span.ids
        ):  # as almost always: a tenth of the time that a look at each takes
            homes = zip(repeat(span.marker), count(1), strict=False)
            self._positions.update(zip(span.ids, zip(homes), strict=False))
            return
        others: dict[str, float] = {}  # by the marker a span starts after: how far it reaches from there
        rows = SpanSlice(span, 0).max_rows
        for position, image_id in enumerate(span.ids, 1):
            farthest: tuple[ImagePosition, ...] = ()
            most = rows - position
            for home in self._positions.get(image_id, ()):
                reach = others.get(home[0])
                if reach is None:
                    other = as_good(home[0])
                    reach = others[home[0]] = 0 if other is None else SpanSlice(other, 0).max_rows
                if reach - home[1] > most:
                    farthest, most = (home,), reach - home[1]
            self._positions[image_id] = ((span.marker, position), *farthest)

    def remove(self, span: Span) -> None:
        """Forget that the images of *span* stand in it."""
        for image_id in span.ids:
            left = tuple(home for home in self._positions.get(image_id, ()) if home[0] != span.marker)
            if left:
                self._positions[image_id] = left
            else:
                self._positions.pop(image_id, None)


_MAX_GENERATIONS: Final = 10_000
_MAX_PREVIOUS: Final = 4  # a Redis that comes back empty has none for a scope at first, and then draws one


@immutable
class _StoredSpan:
    key: CacheKey
    span: Span
    until: float


class MemoryStore:
    """A `SpanStore` in this process. A span larger than *max_bytes* is not kept."""

    def __init__(self, max_bytes: int) -> None:
        self._lru: SegmentedLRU[tuple[str, str]] = SegmentedLRU(max_bytes)
        self._stored: dict[tuple[str, str], _StoredSpan] = {}
        self._span_counts: Counter[str] = Counter()  # how many are kept of a listing
        self._tag_counts: Counter[str] = Counter()  # how many spans each scope touches
        self._image_indexes: dict[str, ImageIndex] = {}  # of a listing
        self._generations: dict[str, str] = {}
        self._previous_generations: dict[
            str, tuple[str, ...]
        ] = {}  # generations replaced though nothing was heard of the scope
        self._listing_generations: dict[tuple[str, ...], str] = {}  # the generations of a listing, by its scopes
        self._invalidations = counted(1)
        self._fences = counted(1)
        self._default_generation = "0"  # the generation of scopes that nothing was heard of
        self._pending_until = 0.0
        self._epoch = 0

    @property
    def epoch(self) -> int:
        """See `SpanStore.epoch`."""
        return self._epoch

    @property
    def max_bytes(self) -> int:
        """The bound of the bytes that spans take; 0 keeps none."""
        return self._lru.max_bytes

    @property
    def stored_bytes(self) -> int:
        """About how many bytes the spans take."""
        return self._lru.stored_bytes

    def health(self) -> Health:
        """See `SpanStore.health`."""
        return Health({"memory": "ok"}, len(self._span_counts), len(self._stored))

    async def lookup(self, key: CacheKey, marker: str, count: int, *, can_join: bool = True, now: float) -> FoundSpans:
        """See `SpanStore.lookup`."""
        return self.lookup_now(key, marker, count, can_join=can_join, now=now)

    def lookup_now(self, key: CacheKey, marker: str, count: int, *, can_join: bool = True, now: float) -> FoundSpans:
        """Return what `chain` returns, without waiting for a turn."""
        if key.digest not in self._span_counts:
            return FoundSpans((), self.state(key, now=now))
        if can_join:
            slices = follow_slices(marker, count, lambda marker: self._find_slice(key.digest, marker, 0, now))
        else:
            slices = follow_slices(
                marker, count, lambda marker: self._find_slice(key.digest, marker, count, now), max_slices=1
            )
        homes = self._find_holders(key.digest, marker, now)
        return FoundSpans(tuple(slices), self.state(key, now=now), homes[0].span.limit if homes else 0)

    async def find_image(self, key: CacheKey, image_id: str, *, now: float) -> SpanSlice | None:
        """See `SpanStore.find_image`."""
        return next(iter(self._find_holders(key.digest, image_id, now)), None)

    async def acquire_lock(self, key: CacheKey, marker: str, *, now: float) -> FetchLock:  # noqa: ARG002 - see below
        """See `SpanStore.acquire_lock`: always given, because one process collapses its fetches anyway."""
        return FetchLock(self.state(key, now=now), next(self._fences))

    async def release_lock(self, key: CacheKey, marker: str, lock: FetchLock) -> None:
        """See `SpanStore.release_lock`."""

    async def wait_for_release(self, key: CacheKey, marker: str, *, timeout_s: float) -> bool:  # noqa: ARG002 - see `acquire_lock`
        """See `SpanStore.wait_for_release`."""
        return False

    async def put(self, key: CacheKey, span: Span, *, keep_s: float, now: float, fence: int = 0) -> None:  # noqa: ARG002
        """See `SpanStore.put`."""
        self.put_now(key, span, keep_s=keep_s, now=now)

    def put_now(self, key: CacheKey, span: Span, *, keep_s: float, now: float) -> None:
        """Do what `put` does, without waiting for a turn."""
        kept = self._stored.get((key.digest, span.marker))
        if keep_s <= 0 or (kept and kept.span == span):
            return
        if kept and current_age(kept.span.fetched_at, now=now) < kept.span.lifetime_s:
            self._epoch += 1  # somebody demanded a newer one, so what was made of this one must not be repeated
        at = (key.digest, span.marker)
        self._unlink(at)
        if span.size_bytes > self._lru.max_bytes:
            self._lru.remove(at)
            return
        self._stored[at] = _StoredSpan(key, span, now + keep_s)
        self._span_counts[key.digest] += 1
        self._tag_counts.update(key.tags)
        if span.ids:
            homes = self._image_indexes.setdefault(key.digest, ImageIndex())
            homes.add(span, lambda after: self._find_as_good(span, (key.digest, after), now))
        for gone in self._lru.add(at, span.size_bytes):
            self._unlink(gone)

    def note_use(self, key: CacheKey, markers: Sequence[str]) -> None:
        """See `SpanStore.note_use`."""
        for marker in markers:
            if (key.digest, marker) in self._lru:
                self._lru.use((key.digest, marker))

    async def invalidate(self, tags: Sequence[str], *, pending_s: float = 0.0, now: float) -> None:
        """See `SpanStore.invalidate`."""
        self.forget_generations(tags)
        if pending_s:
            self.set_pending(now + pending_s)

    async def count_listings(self, tag: str, *, now: float) -> int:
        """See `SpanStore.count_listings`. It looks at every span, except for a scope that nothing is stored under.

        The scope of every token that the upstream refuses is counted, and anyone can make up tokens.
        """
        if tag not in self._tag_counts:
            return 0
        kept = (kept for kept in self._stored.values() if kept.until > now and tag in kept.key.tags)
        return len({each.key.digest for each in kept if each.span.generation == self.generation(each.key)})

    async def shared_secret(self, candidate: bytes) -> bytes:
        """See `SpanStore.shared_secret`: here there is nobody to share it with."""
        return candidate

    async def ping(self) -> None:
        """See `SpanStore.ping`."""

    async def close(self) -> None:
        """See `SpanStore.close`."""

    def state(self, key: CacheKey, *, now: float) -> ListingState:
        """Return what invalidations have made of the listing *key*."""
        return ListingState(self.generation(key), changes_pending=now < self._pending_until)

    def generation(self, key: CacheKey) -> str:
        """Return the generations of the scopes that touch the listing *key*."""
        joined = self._listing_generations.get(key.tags)
        if joined is None:
            if len(self._listing_generations) >= _MAX_GENERATIONS:
                self._listing_generations.clear()
            joined = ".".join([self._generations.get(scope, self._default_generation) for scope in key.tags])
            self._listing_generations[key.tags] = joined
        return joined

    def set_generations(self, generations: Mapping[str, str]) -> None:
        """Take over the *generations* of scopes. Too many of them, and everything kept counts as invalidated."""
        self._listing_generations.clear()
        for scope, generation in generations.items():
            before = self._generations.get(scope, self._default_generation)
            if before != generation:
                self._previous_generations[scope] = (before, *self._previous_generations.get(scope, ()))[:_MAX_PREVIOUS]
        self._generations |= generations
        if len(self._generations) > _MAX_GENERATIONS:
            self._generations.clear()
            self._previous_generations.clear()
            self._default_generation = f"e{next(self._invalidations)}"
            self._epoch += 1

    def forget_generations(self, tags: Iterable[str]) -> None:
        """Let nothing that is kept under *tags* be of the generation that they have from now on."""
        self._epoch += 1
        forgotten = {scope: f"m{next(self._invalidations)}" for scope in tags}
        self.set_generations(forgotten)
        for scope in forgotten:
            self._previous_generations.pop(scope, None)

    def may_be_valid(self, key: CacheKey, generation: str) -> bool:
        """Whether no invalidation of *key* was heard since *generation*, though its generation may be another by now.

        It is another after Redis was restarted, for then nobody knows what was missed.
        """
        given = generation.split(".")
        if len(given) != len(key.tags):
            return False
        return all(
            each in (self._generations.get(scope, self._default_generation), *self._previous_generations.get(scope, ()))
            for scope, each in zip(key.tags, given, strict=True)
        )

    def set_pending(self, until: float) -> None:
        """Count every listing as unsettled *until* then, epoch seconds."""
        self._pending_until = max(self._pending_until, until)

    def _find_slice(self, listing: str, marker: str, min_rows: int, now: float) -> SpanSlice | None:
        """Return what follows *marker*, with *min_rows* images if there is a choice: a span, or the rest of one."""
        kept = self._find_unexpired((listing, marker), now)
        starting = [SpanSlice(kept.span, 0)] if kept else []
        holder = [
            each for each in self._find_holders(listing, marker, now) if each.count or each.span.next_marker != marker
        ]
        return choose_slice(starting + holder, min_rows=min_rows)

    def _find_holders(self, listing: str, image_id: str, now: float) -> list[SpanSlice]:
        """Return the spans that are known to hold the image, from behind it on; the one put last comes first."""
        homes = self._image_indexes.get(listing)
        if homes is None:
            return []
        found = ((self._find_unexpired((listing, after), now), position) for after, position in homes.find(image_id))
        return [SpanSlice(kept.span, position) for kept, position in found if kept]

    def _find_as_good(self, span: Span, at: tuple[str, str], now: float) -> Span | None:
        """Return the span at *at* if it is fresh and of the same generation as *span*, which is new."""
        kept = self._stored.get(at)
        if kept is None or kept.span.generation != span.generation:
            return None
        return kept.span if current_age(kept.span.fetched_at, now=now) < kept.span.lifetime_s else None

    def _find_unexpired(self, at: tuple[str, str], now: float) -> _StoredSpan | None:
        kept = self._stored.get(at)
        if kept is None:
            return None
        if kept.until <= now:
            self._drop(at)
            return None
        self._lru.use(at)
        return kept

    def _drop(self, at: tuple[str, str]) -> None:
        self._lru.remove(at)
        self._unlink(at)

    def _unlink(self, at: tuple[str, str]) -> None:
        kept = self._stored.pop(at, None)
        if kept is None:
            return
        for scope in kept.key.tags:
            self._tag_counts[scope] -= 1
            if not self._tag_counts[scope]:
                del self._tag_counts[scope]
        listing, _ = at
        self._span_counts[listing] -= 1
        if not self._span_counts[listing]:
            del self._span_counts[listing]
            self._image_indexes.pop(listing, None)  # they were all of this span
        elif homes := self._image_indexes.get(listing):
            homes.remove(kept.span)
            if not homes:
                del self._image_indexes[listing]
