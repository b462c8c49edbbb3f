"""Images out of the spans of lists."""

from __future__ import annotations

from dataclasses import replace

import orjson

from proxy.core.cache_key import ALL_TAG, CacheKey
from proxy.core.freshness import Lifetimes
from proxy.core.list_api import CLOUDIMAGES
from proxy.core.messages import Response
from proxy.core.span import SpanSlice
from proxy.errors import StoreUnavailableError
from proxy.resources.service import ListedImages
from proxy.storage.base import FoundSpans
from proxy.storage.memory import MemoryStore
from tests.support.listings import ROWS, MakeWorld, World


def a_page(*ids: str, status: str = "active") -> Response:
    """Return a list of images that say more than their ids."""
    images = [{"id": each, "status": status} for each in ids]
    return Response(200, body=orjson.dumps({"images": images}))


async def found(world: World, items: ListedImages, image_id: str) -> bytes | None:
    """Return the bytes of the image that *items* find for the token alpha."""
    ask = world.ask()
    item = await items.find(ask.key.partition, ask.key.variant, image_id)
    return item.body if item else None


async def given(world: World, items: ListedImages, query: str, page: Response) -> None:
    """Let a list be fetched and given."""
    world.upstream.script = [page]
    await world.get(query)
    items.note_list(world.ask(query))


async def test_the_image_s_own_bytes_are_found(world: World) -> None:
    """Wherever it stands in its list, for as long as that is fresh, with the list's age."""
    items = ListedImages(world.store, clock=world.hand)
    await given(world, items, "limit=3", a_page("a", "b", "c"))
    for image_id in "abc":
        assert await found(world, items, image_id) == b'{"id":"%b","status":"active"}' % image_id.encode()
    assert await found(world, items, "d") is None
    world.passes(7)
    item = await items.find(world.ask().key.partition, "", "a")
    assert item is not None
    assert (item.current_age_s(now=world.now), item.fresh_until - world.now) == (7.0, 53.0)
    world.passes(53)
    assert await found(world, items, "a") is None


async def test_nothing_that_was_invalidated_is_found(world: World) -> None:
    """By a write anywhere."""
    items = ListedImages(world.store, clock=world.hand)
    await given(world, items, "limit=1", a_page("a"))
    await world.store.invalidate([ALL_TAG], now=world.now)
    assert await found(world, items, "a") is None


async def test_nothing_about_to_change_is_found(make_world: MakeWorld) -> None:
    """However long its list is held."""
    world = make_world(lifetimes=Lifetimes(60.0, transient_ttl_s=60.0))
    items = ListedImages(world.store, clock=world.hand)
    await given(world, items, "limit=1", a_page("a", status="saving"))
    assert await found(world, items, "a") is None


async def test_the_lists_given_last_are_looked_through(world: World) -> None:
    """Four of each partition; an image in two of them comes from the one given last."""
    items = ListedImages(world.store, clock=world.hand)
    for number in range(5):
        await given(world, items, f"name={number}&limit=1", a_page(f"i{number}"))
    assert [await found(world, items, f"i{number}") is not None for number in range(5)] == [False] + [True] * 4
    await given(world, items, "name=1&limit=1", a_page("i1"))  # given again, from the store
    await given(world, items, "name=5&limit=1", a_page("i5"))
    assert [await found(world, items, f"i{number}") is not None for number in (1, 2, 5)] == [True, False, True]


async def test_a_list_of_another_kind_is_not_looked_through(world: World) -> None:
    """What `/v2/cloudimages` shows of an image is its own."""
    items = ListedImages(world.store, clock=world.hand)
    world.upstream.script = [a_page("a")]
    ask = world.ask("limit=1")
    await world.gateway.answer(ask)
    items.note_list(replace(ask, upstream_api=CLOUDIMAGES))
    assert await found(world, items, "a") is None


class Away(MemoryStore):
    """A store that can't be reached."""

    async def find_image(self, key: CacheKey, image_id: str, *, now: float) -> SpanSlice | None:
        raise StoreUnavailableError("away")


async def test_a_store_that_is_away_has_no_items(world: World) -> None:
    """And fails nobody."""
    items = ListedImages(Away(1), clock=world.hand)
    items.note_list(world.ask("limit=1"))
    assert await found(world, items, ROWS[0]) is None


class Doubted(MemoryStore):
    """A store that has spans but does not believe them, as process memory while other replicas can't be heard."""

    async def lookup(self, key: CacheKey, marker: str, count: int, *, can_join: bool = True, now: float) -> FoundSpans:
        return replace(await super().lookup(key, marker, count, can_join=can_join, now=now), slices=())


async def test_what_the_store_does_not_believe_is_not_found(world: World) -> None:
    """Another replica's write may have changed the image, and nobody could tell."""
    ask, store = world.ask("limit=1"), Doubted(1 << 20)
    items = ListedImages(store, clock=world.hand)
    items.note_list(ask)
    world.upstream.script = [a_page("a")]
    await world.get("limit=1")
    (piece,) = (await world.store.lookup(ask.key, "", 1, now=world.now)).slices
    state = store.state(ask.key, now=world.now)
    await store.put(ask.key, replace(piece.span, generation=state.generation), keep_s=60.0, now=world.now)
    assert await store.find_image(ask.key, "a", now=world.now)
    assert await found(world, items, "a") is None
