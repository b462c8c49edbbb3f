"""What a list request costs upstream, and in what order it is asked."""

from __future__ import annotations

import asyncio

import pytest

from proxy.core.cache_status import FwdReason
from proxy.core.freshness import Lifetimes
from proxy.core.span import Page
from tests.support.listings import ROWS, MakeWorld, World
from tests.support.model import Model


async def test_a_miss_asks_for_the_window_and_a_hit_for_nothing(world: World) -> None:
    """The first request costs one call, the second none."""
    first = await world.get("limit=10")
    assert (first.cache_status.fwd, first.cache_status.fwd_status, first.cache_status.stored) == (
        FwdReason.URI_MISS,
        200,
        True,
    )
    world.passes(7)
    second = await world.get("limit=10")
    assert (second.cache_status.fwd, second.age_s, second.ttl_s) == (None, 7.0, 53.0)
    assert world.upstream.targets == ["/v2/images?limit=10"]


async def test_the_upstream_is_asked_in_canonical_form(world: World) -> None:
    """Nothing of the caller's spelling goes up, and every repeated parameter does."""
    await world.get("tag=b&sort_dir=desc&name=x+y&tag=a&sort_key=created_at&limit=3&marker=i%30%301")
    assert world.upstream.targets == ["/v2/images?name=x%20y&tag=a&tag=b&limit=3&marker=i001"]


async def test_only_what_is_keyed_goes_upstream(world: World) -> None:
    """Token, variant and the form of errors; nothing that could poison an answer."""
    await world.get(
        "limit=1",
        X_Forwarded_Host="evil.example",
        X_Original_URL="/v2/other",
        X_Project_Id="beta",
        Accept="application/json",
        X_Api_Version="S",
        User_Agent="a client",
        Cookie2="c",
    )
    (request,) = world.upstream.requests
    sent = {name.lower(): value for name, value in request.fields}
    assert sent == {
        "x-auth-token": "alpha",
        "x-api-version": "Q",
        "accept": "application/json",
        "x-request-id": "request-id",
        "accept-encoding": "zstd, gzip",
        "user-agent": "ims-cache-proxy",
    }


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("limit=10", ROWS[:10]),
        ("limit=3", ROWS[:3]),
        ("limit=5&marker=i002", ROWS[3:8]),
        ("limit=7&marker=i039", ROWS[40:47]),
        ("limit=50", ROWS[:50]),
        ("", ROWS[:25]),
    ],
)
async def test_windows_inside_a_span_cost_nothing(world: World, query: str, expected: tuple[str, ...]) -> None:
    """Whatever the limit and wherever it starts, a window that is stored is answered from the store."""
    await world.get("limit=60")
    world.upstream.forget()
    assert await world.ids(query) == expected
    assert world.upstream.targets == []


async def test_only_the_missing_rest_is_fetched(world: World) -> None:
    """A window that begins in the store and ends beyond it costs one call, after the last known marker."""
    await world.get("limit=10")
    got = await world.get("limit=25")
    assert got.page is not None
    assert got.cache_status.fwd is FwdReason.PARTIAL
    assert world.upstream.targets == ["/v2/images?limit=10", "/v2/images?limit=15&marker=i009"]
    world.upstream.forget()
    assert await world.ids("limit=25") == ROWS[:25]
    assert world.upstream.targets == []


async def test_a_page_is_as_old_as_its_oldest_part(world: World) -> None:
    """Age and lifetime of a joined page are those of the part that was fetched first."""
    await world.get("limit=10")
    world.passes(20)
    got = await world.get("limit=25")
    assert (got.age_s, got.ttl_s) == (20.0, 40.0)


async def test_orders_that_move_are_fetched_whole(world: World) -> None:
    """A page by last change is never joined of two moments."""
    await world.get("sort_key=updated_at&limit=10")
    await world.get("sort_key=updated_at&limit=20")
    assert world.upstream.targets == [
        "/v2/images?sort_key=updated_at&limit=10",
        "/v2/images?sort_key=updated_at&limit=20",
    ]
    world.upstream.forget()
    assert await world.ids("sort_key=updated_at&limit=5&marker=i004") == ROWS[5:10]
    assert world.upstream.targets == []


async def test_orders_with_nulls_are_served_page_by_page(world: World) -> None:
    """A page by size is kept as it came and answers only the same page."""
    for query in ("limit=10", "limit=5", "limit=10", "limit=5&marker=i004", "limit=5"):
        await world.get(f"sort_key=size&{query}")
    assert world.upstream.targets == [
        "/v2/images?sort_key=size&limit=10",
        "/v2/images?sort_key=size&limit=5",
        "/v2/images?sort_key=size&limit=5&marker=i004",
    ]


async def test_no_rows_are_a_page_of_their_own(world: World) -> None:
    """`limit=0` gives no images and says nothing about the listing."""
    assert await world.ids("limit=0") == ()
    assert await world.ids("limit=2") == ROWS[:2]
    assert world.upstream.targets == ["/v2/images?limit=0", "/v2/images?limit=2"]


async def test_a_limit_beyond_the_maximum_asks_for_the_maximum(make_world: MakeWorld) -> None:
    """The upstream clamps; so does the proxy, and both limits share the span."""
    world = make_world(longest=50)
    assert await world.ids("limit=999999") == ROWS[:50]
    assert await world.ids("limit=50") == ROWS[:50]
    assert world.upstream.targets == ["/v2/images?limit=50"]


async def test_a_stale_span_is_fetched_anew(world: World) -> None:
    """At the end of its lifetime it answers nothing."""
    await world.get("limit=10")
    world.passes(60)
    got = await world.get("limit=10")
    assert got.age_s == 0.0
    assert len(world.upstream.targets) == 2


async def test_partitions_share_nothing(world: World) -> None:
    """The same query with another token, or in another variant, is another call."""
    for fields in ({}, {"token": "beta"}, {"X_Api_Version": "A"}, {"X_Api_Version": "Z"}):
        for _ in range(2):
            await world.get("limit=3", **fields)
    assert len(world.upstream.targets) == 4
    assert [request.fields.get("X-Auth-Token") for request in world.upstream.requests] == ["alpha", "beta"] + [
        "alpha"
    ] * 2


async def test_the_extension_list_ends_at_an_empty_page(world: World) -> None:
    """Its callers page by last id; a short page is not fetched again, and an empty one ends it."""
    world.upstream.model = Model(ROWS, linked=False)
    assert await world.ids(path="/v2/cloudimages") == ROWS
    assert await world.ids("marker=i119", path="/v2/cloudimages") == ()
    assert world.upstream.targets == ["/v2/cloudimages?limit=500", "/v2/cloudimages?limit=500&marker=i119"]
    world.upstream.forget()
    assert await world.ids("limit=10&marker=i004", path="/v2/cloudimages") == ROWS[5:15]
    assert await world.ids("marker=i119", path="/v2/cloudimages") == ()
    assert world.upstream.targets == []


async def test_hidden_rows_are_neither_lost_nor_repeated(make_world: MakeWorld) -> None:
    """A crawl over pages that a policy shortened shows every image once."""
    hidden = frozenset(ROWS[3:9]) | {ROWS[20], ROWS[39], ROWS[-1]}
    world = make_world(Model(ROWS, hidden))
    for limit in (10, 7, 40):
        marker, seen = "", []
        for _ in range(60):
            got = await world.get(f"limit={limit}" + (f"&marker={marker}" if marker else ""))
            assert isinstance(got.page, Page)
            seen += [image_id for part in got.page.parts for image_id in part.span.ids[part.start : part.stop]]
            marker = got.page.next_marker or ""
            if not marker:
                break
        assert tuple(seen) == world.upstream.model.shown


@pytest.mark.parametrize("count", [2, 100])
async def test_equal_misses_cost_one_call(world: World, count: int) -> None:
    """Callers who come while a span is being fetched wait for it, and are told so."""
    world.upstream.gate.clear()
    callers = [asyncio.create_task(world.get("limit=10")) for _ in range(count)]
    await world.upstream.asked.wait()
    for _ in range(10):
        await asyncio.sleep(0)
    world.upstream.gate.set()
    answers = await asyncio.gather(*callers)
    assert world.upstream.targets == ["/v2/images?limit=10"]
    assert [answer.cache_status.collapsed for answer in answers].count(True) == count - 1


async def test_a_caller_that_hangs_up_cancels_nothing(world: World) -> None:
    """The call goes on, its span is stored, and the next caller has a hit."""
    world.upstream.gate.clear()
    caller = asyncio.create_task(world.get("limit=10"))
    await world.upstream.asked.wait()
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    world.upstream.gate.set()
    await world.settled()
    assert (await world.get("limit=10")).cache_status.fwd is None
    assert len(world.upstream.targets) == 1


async def test_a_token_counts_as_accepted_from_when_it_was_sent(make_world: MakeWorld) -> None:
    """The upstream answers after a minute; when in that minute it looked at the token, nobody knows."""
    world = make_world(lifetimes=Lifetimes(1e6), verdict_ttl_s=300.0)
    await world.get("limit=5")
    world.upstream.forget()
    world.upstream.gate.clear()
    slow = asyncio.create_task(world.get("limit=5&name=slow"))
    await world.upstream.asked.wait()
    world.passes(60)
    world.upstream.gate.set()
    await slow
    world.passes(239)
    assert (await world.get("limit=5")).cache_status.fwd is None
    world.passes(1)
    assert (await world.get("limit=5")).cache_status.fwd is FwdReason.STALE


async def test_loop_turns_while_a_page_of_thousand_images_is_read(make_world: MakeWorld) -> None:
    """Others get their turn between slices of a large answer; a small one is read without a pause."""
    rows = tuple(f"i{number:04}" for number in range(1_000))

    async def turns(limit: int) -> int:
        """Return how often the loop turned from the upstream's answer to the page."""
        world = make_world(Model(rows))
        world.upstream.gate.clear()
        asking = asyncio.create_task(world.ids(f"limit={limit}"))
        await world.upstream.asked.wait()
        world.upstream.gate.set()
        turned = 0
        while not asking.done() and turned < 1_000:
            await asyncio.sleep(0)
            turned += 1
        assert await asking == rows[:limit]
        return turned

    few = await turns(1)
    assert await turns(25) == few
    assert await turns(1_000) >= few + 4
