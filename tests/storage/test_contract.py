"""What every store does alike."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from proxy.core.cache_key import ALL_TAG, CacheKey, listing_tag, partition_tag
from proxy.core.list_query import Window
from proxy.core.span import LIST_START, Span
from proxy.storage.base import SpanStore
from proxy.storage.memory import MemoryStore
from tests.support.model import Model
from tests.support.spans import ALPHA, BETA, KEY, MODEL, NOW, ROWS, a_span, chained, keep
from tests.support.waiting import until

SECRET = b"0123456789abcdef"


async def test_an_empty_store_finds_nothing(store: SpanStore) -> None:
    """No pieces, no known marker, no listing."""
    found = await store.lookup(KEY, LIST_START, 10, now=NOW)
    assert (found.slices, found.marker_span_limit, found.state.changes_pending) == ((), 0, False)
    assert await store.find_image(KEY, "a", now=NOW) is None
    assert await store.count_listings(ALL_TAG, now=NOW) == 0


@pytest.mark.parametrize(
    "span",
    [
        pytest.param(a_span(), id="with more to come"),
        pytest.param(a_span("h", 50), id="the last one"),
        pytest.param(a_span("l", 5), id="an empty last one"),
        pytest.param(Model(ROWS, frozenset("bd")).span(LIST_START, 5, fetched_at=NOW), id="with hidden rows"),
        pytest.param(
            Model(ROWS, frozenset("ab")).span(LIST_START, 2, fetched_at=NOW), id="all hidden, and more to come"
        ),
        pytest.param(replace(a_span(), has_nulls=True), id="with nulls"),
        pytest.param(Model(ROWS, linked=False).span(LIST_START, 50, fetched_at=NOW), id="without links"),
        pytest.param(Model(("镜像 é", 'a"b:c', "{x}", "5:")).span(LIST_START, 3, fetched_at=NOW), id="odd ids"),
        pytest.param(replace(a_span(), marker="镜像:{}\r\n"), id="an odd marker"),
        pytest.param(replace(a_span(), fetched_at=NOW + 0.123456), id="a fraction of a second"),
    ],
)
async def test_a_span_comes_back_as_it_was_put(store: SpanStore, span: Span) -> None:
    """Every part of a span survives, its bytes first of all."""
    await keep(store, span)
    found = await store.lookup(KEY, span.marker, 100, now=NOW)
    assert [piece.start for piece in found.slices] == [0]
    kept = found.slices[0].span
    assert kept == replace(span, generation=found.state.generation)
    assert kept.generation == found.state.generation


async def test_what_follows_an_image_inside_a_span_is_found(store: SpanStore) -> None:
    """A marker in the middle leads to the rest of its span."""
    await keep(store, a_span(LIST_START, 6))
    assert await chained(store, "b") == [(LIST_START, 2)]
    assert await chained(store, "zzz") == []


async def test_behind_the_last_image_of_a_listing_is_its_end(store: SpanStore) -> None:
    """The rest behind the last image is empty, and says that nothing follows."""
    await keep(store, a_span(LIST_START, 50))
    found = await store.lookup(KEY, "l", 10, now=NOW)
    assert [(piece.start, piece.count, piece.span.next_marker) for piece in found.slices] == [(12, 0, None)]


async def test_spans_are_chained_to_the_first_gap(store: SpanStore) -> None:
    """Pieces follow each other by end marker, as far as they reach."""
    await keep(store, a_span(LIST_START, 3), a_span("c", 3), a_span("i", 50))
    assert await chained(store) == [(LIST_START, 0), ("c", 0)]
    assert await chained(store, "b") == [(LIST_START, 2), ("c", 0)]
    await keep(store, a_span("f", 3))
    assert await chained(store) == [(LIST_START, 0), ("c", 0), ("f", 0), ("i", 0)]


async def test_no_more_pieces_are_given_than_hold_the_count(store: SpanStore) -> None:
    """A short window costs no long chain."""
    await keep(store, a_span(LIST_START, 3), a_span("c", 3), a_span("f", 3))
    assert await chained(store, count=3) == [(LIST_START, 0)]
    assert await chained(store, count=4) == [(LIST_START, 0), ("c", 0)]


async def test_a_later_span_replaces_the_one_at_its_marker(store: SpanStore) -> None:
    """Of two puts at one marker the second stays."""
    await keep(store, a_span(LIST_START, 3), a_span(LIST_START, 5, fetched_at=NOW + 1))
    found = await store.lookup(KEY, LIST_START, 5, now=NOW + 1)
    assert [piece.span.ids for piece in found.slices] == [ROWS[:5]]


@pytest.mark.parametrize(("inner_s", "expected"), [(1.0, [("c", 0)]), (-1.0, [(LIST_START, 3)])])
async def test_of_two_ways_on_the_later_fetched_is_taken(
    store: SpanStore, inner_s: float, expected: list[tuple[str, int]]
) -> None:
    """Behind a marker a span may begin and another may go on; the newer one counts."""
    await keep(store, a_span(LIST_START, 6), a_span("c", 3, fetched_at=NOW + inner_s))
    assert await chained(store, "c", 3, now=NOW + 1) == expected


@pytest.mark.parametrize("inner_s", [1.0, -1.0])
async def test_where_one_span_has_to_hold_all_the_one_that_does_is_taken(store: SpanStore, inner_s: float) -> None:
    """Newer or older, a span that ends too soon is of no use there."""
    await keep(store, a_span(LIST_START, 8), a_span("c", 3, fetched_at=NOW + inner_s))
    found = await store.lookup(KEY, "c", 5, can_join=False, now=NOW + 1)
    assert [(piece.span.marker, piece.start) for piece in found.slices] == [(LIST_START, 3)]


async def test_the_span_that_holds_an_image_is_found(store: SpanStore) -> None:
    """An image leads to its span and to what is behind it there."""
    await keep(store, a_span(LIST_START, 6))
    held = await store.find_image(KEY, "d", now=NOW)
    assert held is not None
    assert (held.span.ids, held.start) == (ROWS[:6], 4)
    assert await store.find_image(KEY, "z", now=NOW) is None


async def test_how_long_the_span_behind_was_is_known(store: SpanStore) -> None:
    """A caller who comes with a marker inside or at the end of a span is paging, by its stride."""
    await keep(store, a_span(LIST_START, 6))
    assert (await store.lookup(KEY, LIST_START, 5, now=NOW)).marker_span_limit == 0
    assert (await store.lookup(KEY, "b", 5, now=NOW)).marker_span_limit == 6
    assert (await store.lookup(KEY, "f", 5, now=NOW)).marker_span_limit == 6


@pytest.mark.parametrize(
    "other",
    [
        replace(KEY, partition=BETA),
        replace(KEY, variant="Q"),
        replace(KEY, path="/v2/cloudimages"),
        replace(KEY, query=""),
        replace(KEY, page_window=Window(4)),
    ],
    ids=["partition", "variant", "path", "query", "page"],
)
async def test_listings_don_t_share_spans(store: SpanStore, other: CacheKey) -> None:
    """Whatever differs in the key, what was put under the one is not found under the other."""
    await keep(store, a_span())
    assert await chained(store, key=other) == []
    assert await chained(store, "b", key=other) == []
    assert await store.find_image(other, "b", now=NOW) is None


@pytest.mark.parametrize("keep_s", [0.0, -1.0])
async def test_what_may_be_kept_for_no_time_is_not(store: SpanStore, keep_s: float) -> None:
    """Nothing is stored without a lifetime."""
    await keep(store, a_span(), keep_s=keep_s)
    assert await chained(store) == []


@pytest.mark.parametrize(
    "scope",
    [ALL_TAG, partition_tag(ALPHA), listing_tag(KEY.path, KEY.query)],
    ids=["everything", "partition", "listing"],
)
async def test_an_invalidation_gives_its_listings_another_generation(store: SpanStore, scope: str) -> None:
    """Spans from before it can be told from spans from after it, and other listings are left alone."""
    elsewhere = replace(KEY, partition=BETA, query="other")
    await keep(store, a_span())
    await keep(store, a_span(), key=elsewhere)
    await store.invalidate([scope], now=NOW)
    found = await store.lookup(KEY, LIST_START, 4, now=NOW)
    assert all(piece.span.generation != found.state.generation for piece in found.slices)
    other = await store.lookup(elsewhere, LIST_START, 4, now=NOW)
    assert [piece.span.generation == other.state.generation for piece in other.slices] == [scope != ALL_TAG]
    await keep(store, a_span())
    found = await store.lookup(KEY, LIST_START, 4, now=NOW)
    assert [piece.span.generation for piece in found.slices] == [found.state.generation]


async def test_no_generation_comes_twice(store: SpanStore) -> None:
    """However often, each invalidation makes a generation that never was."""
    seen = set()
    for number in range(20):
        seen.add((await store.acquire_lock(KEY, f"m{number}", now=NOW)).state.generation)
        await store.invalidate([ALL_TAG] if number % 2 else KEY.tags[1:], now=NOW)
    assert len(seen) == 20


async def test_a_job_that_began_unsettles_lists_for_a_while(store: SpanStore) -> None:
    """Until its end is to be expected every listing says so."""
    await store.invalidate([ALL_TAG], pending_s=30.0, now=NOW)
    assert (await store.acquire_lock(KEY, "a", now=NOW + 29)).state.changes_pending
    assert not (await store.acquire_lock(KEY, "b", now=NOW + 31)).state.changes_pending


async def test_a_claim_comes_with_the_state_and_can_be_given_back(store: SpanStore) -> None:
    """Fences grow from claim to claim, and a claim that was given back is free."""
    first = await store.acquire_lock(KEY, LIST_START, now=NOW)
    await store.release_lock(KEY, LIST_START, first)
    second = await store.acquire_lock(KEY, LIST_START, now=NOW)
    assert first.fence is not None
    assert second.fence is not None
    assert second.fence > first.fence
    assert second.state == first.state == (await store.lookup(KEY, LIST_START, 1, now=NOW)).state
    await store.release_lock(KEY, LIST_START, second)


async def test_listings_are_counted_by_scope(store: SpanStore) -> None:
    """A listing of several spans counts once, and not where its scope was invalidated."""
    await keep(store, a_span(LIST_START, 3), a_span("c", 3))
    await keep(store, a_span(), key=replace(KEY, partition=BETA))
    assert await store.count_listings(ALL_TAG, now=NOW) == 2
    assert await store.count_listings(partition_tag(ALPHA), now=NOW) == 1
    assert await store.count_listings(listing_tag(KEY.path, KEY.query), now=NOW) == 2
    await store.invalidate([partition_tag(ALPHA)], now=NOW)
    assert await store.count_listings(partition_tag(ALPHA), now=NOW) == 0


async def test_a_secret_is_long_enough_and_stays(store: SpanStore) -> None:
    """Who asks again with the secret it got, gets it again."""
    secret = await store.shared_secret(SECRET)
    assert len(secret) >= 16
    assert await store.shared_secret(secret) == secret


async def test_a_store_that_is_there_answers_a_ping(store: SpanStore) -> None:
    """A ping returns, the bytes taken are known, and every part of it is well."""
    await store.ping()
    assert store.stored_bytes >= 0
    assert store.health().replicas == 1
    await until(lambda: set(store.health().parts.values()) <= {"ok"})


@pytest.mark.parametrize("seed", range(8))
async def test_every_store_finds_what_memory_finds(store: SpanStore, seed: int) -> None:
    """Whatever was put in whatever order, chains are the same everywhere."""
    dice = random.Random(seed)
    memory = MemoryStore(1 << 20)
    hidden = frozenset(dice.sample(ROWS, dice.randrange(3)))
    model = replace(MODEL, hidden=hidden, linked=dice.random() < 0.8)
    for moment in range(dice.randrange(1, 9)):
        span = model.span(dice.choice((LIST_START, *ROWS)), dice.randrange(1, 9), fetched_at=NOW + moment)
        for each in (store, memory):
            await keep(each, span, now=NOW + moment)
    for after in (LIST_START, *ROWS):
        count, joinable = dice.randrange(1, 15), dice.random() < 0.5
        here = await store.lookup(KEY, after, count, can_join=joinable, now=NOW + 9)
        there = await memory.lookup(KEY, after, count, can_join=joinable, now=NOW + 9)
        assert [(p.span.marker, p.span.ids, p.start) for p in here.slices] == [
            (p.span.marker, p.span.ids, p.start) for p in there.slices
        ]
        assert here.marker_span_limit == there.marker_span_limit


async def test_a_later_span_that_ends_sooner_hides_none_that_reaches_farther(store: SpanStore) -> None:
    """An image in both leads to the one that holds the window, and where both do to the later one."""
    await keep(store, a_span(LIST_START, 9), a_span("b", 3, fetched_at=NOW + 1), now=NOW + 1)
    found = await store.lookup(KEY, "c", 4, can_join=False, now=NOW + 1)
    assert [(piece.span.marker, piece.start) for piece in found.slices] == [(LIST_START, 3)]
    found = await store.lookup(KEY, "c", 2, can_join=False, now=NOW + 1)
    assert [(piece.span.marker, piece.start) for piece in found.slices] == [("b", 1)]
    assert await chained(store, "e", 2, now=NOW + 1) == [(LIST_START, 5)]


@pytest.mark.parametrize("ended", ["stale", "invalidated"])
async def test_a_span_of_no_more_use_keeps_no_place_that_another_could_have(store: SpanStore, ended: str) -> None:
    """What is out of date may reach as far as it will: of those that are not, the farthest is known."""
    await keep(store, a_span(LIST_START, 12), keep_s=600.0)
    later = NOW + 61 if ended == "stale" else NOW + 1
    if ended == "invalidated":
        await store.invalidate([ALL_TAG], now=NOW)
    await keep(store, a_span("a", 8, fetched_at=later), a_span("b", 3, fetched_at=later), now=later)
    found = await store.lookup(KEY, "c", 4, can_join=False, now=later)
    assert [(piece.span.marker, piece.start) for piece in found.slices] == [("a", 2)]


@pytest.mark.parametrize("seed", range(20))
async def test_a_window_that_lies_in_one_span_is_found_in_one(store: SpanStore, seed: int) -> None:
    """In whatever order spans of whatever length came, unless a shorter one was put in the place of a longer."""
    dice = random.Random(seed)
    spans: dict[str, Span] = {}
    for moment in range(dice.randrange(2, 12)):
        after = dice.choice((LIST_START, *ROWS))
        least = len(spans[after].ids) if after in spans else 1
        spans[after] = MODEL.span(after, dice.randrange(least, 13) if least < 12 else 12, fetched_at=NOW + moment)
        await keep(store, spans[after], now=NOW + moment)
    for span in spans.values():
        for position, after in enumerate((span.marker, *span.ids)):
            count = len(span.ids) - position
            found = await store.lookup(KEY, after, count, can_join=False, now=NOW + 12)
            assert not count or found.slices[0].count >= count or found.slices[0].span.next_marker is None
