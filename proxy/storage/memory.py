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

from proxy.core.cache_key import ListingKey
from proxy.core.freshness import current_age
from proxy.core.span import Piece, Span, chain, chosen
from proxy.core.values import immutable
from proxy.storage.base import Claim, Found, Health, State
from proxy.storage.segmented_lru import Segments

Home = tuple[str, int]  # the marker that a span starts after, and the position behind the image there


class Homes:
    """Knows in which spans the images of one listing stand."""

    def __init__(self) -> None:
        self._homes: dict[str, tuple[Home, ...]] = {}

    def __len__(self) -> int:
        return len(self._homes)

    def of(self, image_id: str) -> tuple[Home, ...]:
        """Return where the image stands, at most twice: the span put last comes first."""
        return self._homes.get(image_id, ())

    def add(self, span: Span, equal: Callable[[str], Span | None]) -> None:
        """Note that the images of *span* stand in it. *equal* gives the span kept after a marker, if it is as good."""
        if self._homes.keys().isdisjoint(span.ids):  # as almost always: a tenth of the time that a look at each takes
            homes = zip(repeat(span.after), count(1), strict=False)
            self._homes.update(zip(span.ids, zip(homes), strict=False))
            return
        others: dict[str, float] = {}  # by the marker a span starts after: how far it reaches from there
        rows = Piece(span, 0).reach
        for position, image_id in enumerate(span.ids, 1):
            farthest: tuple[Home, ...] = ()
            most = rows - position
            for home in self._homes.get(image_id, ()):
                reach = others.get(home[0])
                if reach is None:
                    other = equal(home[0])
                    reach = others[home[0]] = 0 if other is None else Piece(other, 0).reach
                if reach - home[1] > most:
                    farthest, most = (home,), reach - home[1]
            self._homes[image_id] = ((span.after, position), *farthest)

    def remove(self, span: Span) -> None:
        """Forget that the images of *span* stand in it."""
        for image_id in span.ids:
            left = tuple(home for home in self._homes.get(image_id, ()) if home[0] != span.after)
            if left:
                self._homes[image_id] = left
            else:
                self._homes.pop(image_id, None)


_MAX_GENERATIONS: Final = 10_000
_MOST_BEFORE: Final = 4  # a Redis that comes back empty has none for a scope at first, and then draws one


@immutable
class _Kept:
    key: ListingKey
    span: Span
    until: float


class MemoryStore:
    """A `SpanStore` in this process. A span larger than *max_bytes* is not kept."""

    def __init__(self, max_bytes: int) -> None:
        self._segments: Segments[tuple[str, str]] = Segments(max_bytes)
        self._kept: dict[tuple[str, str], _Kept] = {}
        self._spans: Counter[str] = Counter()  # how many are kept of a listing
        self._scoped: Counter[str] = Counter()  # how many spans each scope touches
        self._homes: dict[str, Homes] = {}  # of a listing
        self._generations: dict[str, str] = {}
        self._before: dict[str, tuple[str, ...]] = {}  # generations replaced though nothing was heard of the scope
        self._joined: dict[tuple[str, ...], str] = {}  # the generations of a listing, by its scopes
        self._invalidations = counted(1)
        self._fences = counted(1)
        self._era = "0"  # the generation of scopes that nothing was heard of
        self._unsettled_until = 0.0
        self._epoch = 0

    @property
    def epoch(self) -> int:
        """See `SpanStore.epoch`."""
        return self._epoch

    @property
    def max_bytes(self) -> int:
        """The bound of the bytes that spans take; 0 keeps none."""
        return self._segments.max_bytes

    @property
    def stored_bytes(self) -> int:
        """About how many bytes the spans take."""
        return self._segments.stored_bytes

    def health(self) -> Health:
        """See `SpanStore.health`."""
        return Health({"memory": "ok"}, len(self._spans), len(self._kept))

    async def chain(self, key: ListingKey, after: str, count: int, *, joinable: bool = True, now: float) -> Found:
        """See `SpanStore.chain`."""
        return self.chain_now(key, after, count, joinable=joinable, now=now)

    def chain_now(self, key: ListingKey, after: str, count: int, *, joinable: bool = True, now: float) -> Found:
        """Return what `chain` returns, without waiting for a turn."""
        if key.digest not in self._spans:
            return Found((), self.state(key, now=now))
        if joinable:
            pieces = chain(after, count, lambda marker: self._piece(key.digest, marker, 0, now))
        else:
            pieces = chain(after, count, lambda marker: self._piece(key.digest, marker, count, now), most=1)
        homes = self._holding(key.digest, after, now)
        return Found(tuple(pieces), self.state(key, now=now), homes[0].span.asked if homes else 0)

    async def holding(self, key: ListingKey, image_id: str, *, now: float) -> Piece | None:
        """See `SpanStore.holding`."""
        return next(iter(self._holding(key.digest, image_id, now)), None)

    async def claim(self, key: ListingKey, after: str, *, now: float) -> Claim:  # noqa: ARG002 - see below
        """See `SpanStore.claim`: always given, for within one process flights are collapsed already."""
        return Claim(self.state(key, now=now), next(self._fences))

    async def settle(self, key: ListingKey, after: str, claim: Claim) -> None:
        """See `SpanStore.settle`."""

    async def settled(self, key: ListingKey, after: str, *, timeout_s: float) -> bool:  # noqa: ARG002 - see `claim`
        """See `SpanStore.settled`."""
        return False

    async def put(self, key: ListingKey, span: Span, *, keep_s: float, now: float, fence: int = 0) -> None:  # noqa: ARG002
        """See `SpanStore.put`."""
        self.put_now(key, span, keep_s=keep_s, now=now)

    def put_now(self, key: ListingKey, span: Span, *, keep_s: float, now: float) -> None:
        """Do what `put` does, without waiting for a turn."""
        kept = self._kept.get((key.digest, span.after))
        if keep_s <= 0 or (kept and kept.span == span):
            return
        if kept and current_age(kept.span.fetched_at, now=now) < kept.span.lifetime_s:
            self._epoch += 1  # somebody demanded a newer one, so what was made of this one must not be repeated
        at = (key.digest, span.after)
        self._unlinked(at)
        if span.size_bytes > self._segments.max_bytes:
            self._segments.remove(at)
            return
        self._kept[at] = _Kept(key, span, now + keep_s)
        self._spans[key.digest] += 1
        self._scoped.update(key.scopes)
        if span.ids:
            homes = self._homes.setdefault(key.digest, Homes())
            homes.add(span, lambda after: self._equal(span, (key.digest, after), now))
        for gone in self._segments.add(at, span.size_bytes):
            self._unlinked(gone)

    def used(self, key: ListingKey, starts: Sequence[str]) -> None:
        """See `SpanStore.used`."""
        for after in starts:
            if (key.digest, after) in self._segments:
                self._segments.use((key.digest, after))

    async def invalidate(self, scopes: Sequence[str], *, unsettled_s: float = 0.0, now: float) -> None:
        """See `SpanStore.invalidate`."""
        self.forget(scopes)
        if unsettled_s:
            self.unsettle(now + unsettled_s)

    async def count(self, scope: str, *, now: float) -> int:
        """See `SpanStore.count`. It looks at every span, except for a scope that nothing is stored under.

        The scope of every token that the upstream refuses is counted, and anyone can make up tokens.
        """
        if scope not in self._scoped:
            return 0
        kept = (kept for kept in self._kept.values() if kept.until > now and scope in kept.key.scopes)
        return len({each.key.digest for each in kept if each.span.generation == self.generation(each.key)})

    async def shared_secret(self, candidate: bytes) -> bytes:
        """See `SpanStore.shared_secret`: here there is nobody to share it with."""
        return candidate

    async def ping(self) -> None:
        """See `SpanStore.ping`."""

    async def close(self) -> None:
        """See `SpanStore.close`."""

    def state(self, key: ListingKey, *, now: float) -> State:
        """Return what invalidations have made of the listing *key*."""
        return State(self.generation(key), unsettled=now < self._unsettled_until)

    def generation(self, key: ListingKey) -> str:
        """Return the generations of the scopes that touch the listing *key*."""
        joined = self._joined.get(key.scopes)
        if joined is None:
            if len(self._joined) >= _MAX_GENERATIONS:
                self._joined.clear()
            joined = ".".join([self._generations.get(scope, self._era) for scope in key.scopes])
            self._joined[key.scopes] = joined
        return joined

    def learn(self, generations: Mapping[str, str]) -> None:
        """Take over the *generations* of scopes. Too many of them, and everything kept counts as invalidated."""
        self._joined.clear()
        for scope, generation in generations.items():
            before = self._generations.get(scope, self._era)
            if before != generation:
                self._before[scope] = (before, *self._before.get(scope, ()))[:_MOST_BEFORE]
        self._generations |= generations
        if len(self._generations) > _MAX_GENERATIONS:
            self._generations.clear()
            self._before.clear()
            self._era = f"e{next(self._invalidations)}"
            self._epoch += 1

    def forget(self, scopes: Iterable[str]) -> None:
        """Let nothing that is kept under *scopes* be of the generation that they have from now on."""
        self._epoch += 1
        forgotten = {scope: f"m{next(self._invalidations)}" for scope in scopes}
        self.learn(forgotten)
        for scope in forgotten:
            self._before.pop(scope, None)

    def is_not_known_to_be_invalid(self, key: ListingKey, generation: str) -> bool:
        """Whether no invalidation of *key* was heard since *generation*, though its generation may be another by now.

        It is another after Redis was restarted, for then nobody knows what was missed.
        """
        given = generation.split(".")
        if len(given) != len(key.scopes):
            return False
        return all(
            each in (self._generations.get(scope, self._era), *self._before.get(scope, ()))
            for scope, each in zip(key.scopes, given, strict=True)
        )

    def unsettle(self, until: float) -> None:
        """Count every listing as unsettled *until* then, epoch seconds."""
        self._unsettled_until = max(self._unsettled_until, until)

    def _piece(self, listing: str, marker: str, least: int, now: float) -> Piece | None:
        """Return what follows *marker*, with *least* images if there is a choice: a span, or the rest of one."""
        kept = self._alive((listing, marker), now)
        starting = [Piece(kept.span, 0)] if kept else []
        holding = [each for each in self._holding(listing, marker, now) if each.count or each.span.end != marker]
        return chosen(starting + holding, least=least)

    def _holding(self, listing: str, image_id: str, now: float) -> list[Piece]:
        """Return the spans that are known to hold the image, from behind it on; the one put last comes first."""
        homes = self._homes.get(listing)
        if homes is None:
            return []
        found = ((self._alive((listing, after), now), position) for after, position in homes.of(image_id))
        return [Piece(kept.span, position) for kept, position in found if kept]

    def _equal(self, span: Span, at: tuple[str, str], now: float) -> Span | None:
        """Return the span at *at* if it is fresh and of the same generation as *span*, which is new."""
        kept = self._kept.get(at)
        if kept is None or kept.span.generation != span.generation:
            return None
        return kept.span if current_age(kept.span.fetched_at, now=now) < kept.span.lifetime_s else None

    def _alive(self, at: tuple[str, str], now: float) -> _Kept | None:
        kept = self._kept.get(at)
        if kept is None:
            return None
        if kept.until <= now:
            self._drop(at)
            return None
        self._segments.use(at)
        return kept

    def _drop(self, at: tuple[str, str]) -> None:
        self._segments.remove(at)
        self._unlinked(at)

    def _unlinked(self, at: tuple[str, str]) -> None:
        kept = self._kept.pop(at, None)
        if kept is None:
            return
        for scope in kept.key.scopes:
            self._scoped[scope] -= 1
            if not self._scoped[scope]:
                del self._scoped[scope]
        listing, _ = at
        self._spans[listing] -= 1
        if not self._spans[listing]:
            del self._spans[listing]
            self._homes.pop(listing, None)  # they were all of this span
        elif homes := self._homes.get(listing):
            homes.remove(kept.span)
            if not homes:
                del self._homes[listing]
