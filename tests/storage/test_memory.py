"""Process memory: its bound, who goes first, and its end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from proxy.core.cache_key import CacheKey
from proxy.core.span import LIST_START
from proxy.storage.memory import MemoryStore
from tests.support.model import Model
from tests.support.spans import BETA, KEY, NOW, a_span, chained, keep


def a_listing(number: int) -> CacheKey:
    return replace(KEY, query=f"name=n{number}")


async def test_memory_stays_within_its_bound() -> None:
    """However many spans come, no more bytes are taken than allowed, and what was taken is given back."""
    bound = 10 * a_span().size_bytes
    store = MemoryStore(bound)
    for number in range(200):
        await keep(store, a_span(), key=a_listing(number))
        assert 0 < store.stored_bytes <= bound
    kept = [number for number in range(200) if await chained(store, key=a_listing(number))]
    assert kept == list(range(190, 200))


async def test_the_least_recently_used_goes_first() -> None:
    """A span that was looked at outlives one that was not, however old."""
    store = MemoryStore(3 * a_span().size_bytes)
    for number in range(3):
        await keep(store, a_span(), key=a_listing(number))
    await chained(store, key=a_listing(0))
    await keep(store, a_span(), key=a_listing(3))
    assert [bool(await chained(store, key=a_listing(number))) for number in range(4)] == [True, False, True, True]


async def test_an_image_that_is_looked_into_counts_as_use() -> None:
    """A window that begins inside a span uses it too."""
    store = MemoryStore(2 * a_span().size_bytes)
    await keep(store, a_span(), key=a_listing(0))
    await keep(store, a_span(), key=a_listing(1))
    await chained(store, "b", key=a_listing(0))
    await keep(store, a_span(), key=a_listing(2))
    assert await chained(store, key=a_listing(0))
    assert not await chained(store, key=a_listing(1))


async def test_what_is_given_again_unasked_is_in_use() -> None:
    """A span whose answer is repeated outlives a flood, though the store is never asked for it."""
    store = MemoryStore(40 * a_span().size_bytes)
    for number in range(4):
        await keep(store, a_span(), key=a_listing(number))
    store.note_use(a_listing(0), [LIST_START])
    store.note_use(a_listing(999), [LIST_START])  # gone meanwhile, or never there
    for number in range(1000, 1100):
        await keep(store, a_span(), key=a_listing(number))
    assert [bool(await chained(store, key=a_listing(number))) for number in range(4)] == [True, False, False, False]


async def test_a_span_larger_than_everything_is_not_kept() -> None:
    """It would throw out all others and not fit even then."""
    large = Model([f"{number:036}" for number in range(500)]).span(LIST_START, 500, fetched_at=NOW)
    store = MemoryStore(large.size_bytes - 1)
    await keep(store, a_span(), key=a_listing(1))
    await keep(store, large)
    assert not await chained(store)
    assert await chained(store, key=a_listing(1))


async def test_listings_and_spans_are_counted() -> None:
    """Each listing once, however many spans it has, and none that has gone."""
    store = MemoryStore(3 * a_span().size_bytes)

    def counted() -> tuple[int, int]:
        return store.health().listings, store.health().spans

    await keep(store, a_span(), a_span("d"))
    await keep(store, a_span(fetched_at=NOW + 1))
    assert counted() == (1, 2)
    for number in range(3):
        await keep(store, a_span(), key=a_listing(number), keep_s=10)
    assert counted() == (3, 3)  # two of the five had to go
    assert not await chained(store, key=a_listing(2), now=NOW + 20)
    assert counted() == (2, 2)


async def test_nothing_is_kept_in_no_bytes() -> None:
    """A bound of zero stores nothing and answers all the same."""
    store = MemoryStore(0)
    await keep(store, a_span())
    assert not await chained(store)
    assert store.stored_bytes == 0


@pytest.mark.parametrize(("after_s", "there"), [(59.9, True), (60.0, False), (-100.0, True)])
async def test_spans_expire_by_the_clock_that_is_passed(after_s: float, *, there: bool) -> None:
    """At the end of its time a span is gone, its bytes too; a clock that steps back changes nothing."""
    store = MemoryStore(1 << 20)
    await keep(store, a_span(), keep_s=60.0)
    assert bool(await chained(store, now=NOW + after_s)) is there
    assert bool(await chained(store, "b", now=NOW + after_s)) is there
    assert bool(store.stored_bytes) is there


async def test_a_replaced_span_leaves_nothing_behind() -> None:
    """The images of a span that was replaced lead nowhere, unless the new one has them."""
    store = MemoryStore(1 << 20)
    await keep(store, a_span(LIST_START, 6))
    await keep(store, a_span(LIST_START, 2, fetched_at=NOW + 1))
    assert await store.find_image(KEY, "e", now=NOW) is None
    held = await store.find_image(KEY, "b", now=NOW)
    assert held is not None
    assert held.start == 2
    assert store.stored_bytes == a_span(LIST_START, 2).size_bytes


async def test_memory_is_one_process_s_own() -> None:
    """There is nobody to share a secret with."""
    assert await MemoryStore(1).shared_secret(b"mine" * 4) == b"mine" * 4


async def test_generations_are_bounded() -> None:
    """Invalidations of a hundred thousand scopes cost memory for some, and none becomes usable again."""
    store = MemoryStore(1 << 20)
    await keep(store, a_span(), key=replace(KEY, partition=BETA))
    await store.invalidate(KEY.tags[1:2], now=NOW)
    invalidated = (await store.lookup(KEY, LIST_START, 1, now=NOW)).state.generation
    await keep(store, a_span())
    for number in range(100):
        await store.invalidate([f"partition:{number}-{each}" for each in range(1000)], now=NOW)
    found = await store.lookup(KEY, LIST_START, 1, now=NOW)
    assert all(piece.span.generation != found.state.generation for piece in found.slices)
    assert found.state.generation != invalidated


async def test_a_scope_that_touches_nothing_is_counted_without_a_look_at_every_span() -> None:
    """Anyone can make up tokens, and each that is refused is counted; what goes takes its scopes along."""
    store = MemoryStore(3 * a_span().size_bytes)
    for number in range(5):
        await keep(store, a_span(), key=a_listing(number))
    looked_at: list[object] = []

    class Noted(dict[tuple[str, str], object]):
        def values(self) -> Any:
            looked_at.append(self)
            return super().values()

    store._stored = Noted(store._stored)  # type: ignore[assignment]
    gone, here = a_listing(0).tags[-1], a_listing(4).tags[-1]
    assert await store.count_listings("partition:made-up", now=NOW) == await store.count_listings(gone, now=NOW) == 0
    assert not looked_at
    assert await store.count_listings(here, now=NOW) == 1
