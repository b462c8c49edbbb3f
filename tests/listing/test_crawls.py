"""Callers who page: readahead, markers that vanish, and what a crawl costs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.core.span import Page
from tests.support.listings import MakeWorld, World
from tests.support.model import Model, ids_of

MANY = tuple(f"i{number:04}" for number in range(2000))


async def crawl(world: World, limit: int, query: str = "", *, path: str = "/v2/images") -> tuple[str, ...]:
    """Return every id that following `next`, or the last id where there are no links, shows."""
    marker, seen = "", list[str]()
    for _ in range(500):
        window = f"{query}&limit={limit}" + (f"&marker={marker}" if marker else "")
        got = await world.get(window, path=path)
        assert isinstance(got.page, Page)
        shown = ids_of(got.page)
        seen += shown
        await world.settled()
        marker = (got.page.next_marker if path == "/v2/images" else (shown or [""])[-1]) or ""
        if not marker:
            break
    return tuple(seen)


async def test_a_crawl_costs_a_handful_of_calls(make_world: MakeWorld) -> None:
    """Two thousand images at twenty-five a page: a few calls, then none, and none at other page sizes."""
    world = make_world(Model(MANY), readahead=True)
    assert await crawl(world, 25) == MANY
    assert len(world.upstream.targets) <= 8
    world.upstream.forget()
    for limit in (25, 10, 100, 1000):
        assert await crawl(world, limit) == MANY
    assert world.upstream.targets == []


async def test_a_crawl_of_the_extension_list_costs_as_little(make_world: MakeWorld) -> None:
    """Its callers page by last id until an empty page."""
    world = make_world(Model(MANY, linked=False), readahead=True)
    assert await crawl(world, 25, path="/v2/cloudimages") == MANY
    assert len(world.upstream.targets) <= 8


async def test_a_first_page_costs_no_more_than_a_page(make_world: MakeWorld) -> None:
    """Who only looks something up does not pay for a crawl."""
    world = make_world(Model(MANY), readahead=True)
    await world.get("limit=25")
    await world.settled()
    assert world.upstream.targets == ["/v2/images?limit=25"]


async def test_no_span_exceeds_what_the_upstream_gives(make_world: MakeWorld) -> None:
    """Strides grow to the upstream's longest page and no further."""
    world = make_world(Model(MANY), readahead=True, longest=100)
    await crawl(world, 25)
    limits = [int(target.partition("limit=")[2].partition("&")[0]) for target in world.upstream.targets]
    assert max(limits) == 100


async def test_orders_with_nulls_are_not_read_ahead(make_world: MakeWorld) -> None:
    """Where pages are no windows of one order, each costs what it is."""
    world = make_world(Model(MANY[:100]), readahead=True)
    assert await crawl(world, 25, "sort_key=size") == MANY[:100]
    assert {target.partition("limit=")[2].partition("&")[0] for target in world.upstream.targets} == {"25"}


@pytest.mark.parametrize("readahead", [False, True])
async def test_hidden_rows_cost_no_image(make_world: MakeWorld, *, readahead: bool) -> None:
    """Where a policy shortens pages a crawl still shows every image once, at each page size."""
    hidden = frozenset(MANY[number] for number in range(0, 300, 7)) | frozenset(MANY[50:80])
    model = Model(MANY[:300], hidden)
    world = make_world(model, readahead=readahead)
    for limit in (25, 10, 60):
        assert await crawl(world, limit) == model.shown


async def test_a_marker_that_vanished_goes_on_where_it_stood(make_world: MakeWorld) -> None:
    """The image was deleted between two pages: the crawl loses and repeats nothing else."""
    world = make_world(Model(MANY[:100]))
    page = await world.get("limit=10")
    assert page.page is not None
    marker = page.page.next_marker
    assert marker == "i0009"
    world.upstream.model = replace(world.upstream.model, rows=tuple(row for row in MANY[:100] if row != marker))
    await world.store.invalidate(["all"], now=world.now)
    got = await world.get(f"limit=10&marker={marker}")
    assert got.page is not None
    assert ids_of(got.page) == MANY[10:20]
    assert got.cache_status.detail == "marker-recovered"


async def test_a_marker_that_nobody_knows_is_refused_upstream(world: World) -> None:
    """Without a stored span that held it, the upstream's own answer counts."""
    got = await world.get("limit=10&marker=unheard-of")
    assert got.response is not None
    assert got.response.status == 400
