"""What becomes of answers that are no lists, of stale pages, and of callers who ask for newer ones."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from proxy.core.freshness import Lifetimes
from proxy.core.messages import Fields, Response
from proxy.errors import NotCachedError, UpstreamTimeoutError
from tests.support.listings import ROWS, MakeWorld, World, unreachable


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
async def test_errors_pass_through_and_are_not_stored(world: World, status: int) -> None:
    """The upstream's own answer reaches the caller, and the next one asks again."""
    refused = Response(status, Fields([("X-Own", "1")]), b"no", "Its Reason")
    for _ in range(2):
        world.upstream.script = [refused]
        got = await world.get("limit=10")
        assert got.response == refused
        assert not got.cache_status.stored
    assert len(world.upstream.targets) == 2
    assert await world.ids("limit=10") == ROWS[:10]


@pytest.mark.parametrize("status", [400, 404])
async def test_refusals_may_be_remembered_briefly(world: World, status: int) -> None:
    """For some seconds, for the same partition and page only."""
    left = ("X-Apig-RateLimit-User", "remain:99,limit:100,time:1 minute")
    world.upstream.script = [Response(status, Fields([left]), b"bad filter")]
    first = await world.get("name=x&limit=10")
    assert first.response == Response(status, Fields([left]), b"bad filter")
    world.passes(3)
    again = await world.get("name=x&limit=10")
    assert again.response == Response(status, Fields([("Age", "3")]), b"bad filter"), "older, and of no call"
    assert len(world.upstream.targets) == 1
    await world.get("name=x&limit=10", token="beta")
    await world.get("name=x&limit=9")
    assert len(world.upstream.targets) == 3
    world.passes(6)
    assert await world.ids("name=x&limit=10") == ROWS[:10]


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"images":7}', b'{"images":[{"name":"no id"}]}'])
async def test_a_200_that_is_no_list_passes_through(world: World, body: bytes) -> None:
    """It reaches the caller as it came, and nothing of it is stored."""
    world.upstream.script = [Response(200, Fields([("Content-Type", "text/html")]), body)]
    got = await world.get("limit=10")
    assert got.response is not None
    assert got.response.body == body
    assert got.cache_status.detail in ("not-a-list", "ids")
    assert (await world.get("limit=10")).page is not None


async def test_nobody_is_answered_with_what_was_said_to_another(world: World) -> None:
    """Of two who wait, the one whose fetch was refused gets the refusal and the other asks again."""
    world.upstream.gate.clear()
    world.upstream.script = [Response(401, Fields(), b"expired")]
    leader = asyncio.create_task(world.get("limit=10"))
    await world.upstream.asked.wait()
    follower = asyncio.create_task(world.get("limit=10"))
    for _ in range(10):
        await asyncio.sleep(0)
    world.upstream.gate.set()
    first, second = await asyncio.gather(leader, follower)
    assert first.response is not None
    assert first.response.status == 401
    assert second.page is not None
    assert len(world.upstream.targets) == 2


async def test_a_refusal_that_sets_a_cookie_is_for_who_asked(world: World) -> None:
    """It is neither remembered nor shared with who waited."""
    world.upstream.gate.clear()
    world.upstream.failing = Response(404, Fields([("Set-Cookie", "session=s3cr3t")]), b"no")
    crowd = [asyncio.create_task(world.get("limit=10")) for _ in range(4)]
    await world.upstream.asked.wait()
    await asyncio.sleep(0)
    world.upstream.gate.set()
    await asyncio.gather(*crowd)
    assert len(world.upstream.targets) == 4
    assert (await world.get("limit=10")).cache_status.detail is None


async def test_what_tells_of_one_call_is_for_who_made_it(world: World) -> None:
    """Those who waited are told of the failure, not which call of another's it was, nor what that one has left."""
    world.upstream.gate.clear()
    lines = [("X-Request-Id", "1"), ("X-Apig-RateLimit-User", "remain:9"), ("X-Own", "1")]
    world.upstream.failing = Response(500, Fields(lines), b"no")
    crowd = [asyncio.create_task(world.get("limit=10")) for _ in range(6)]
    await world.upstream.asked.wait()
    await asyncio.sleep(0)
    world.upstream.gate.set()
    got = await asyncio.gather(*crowd)
    assert any(each.cache_status.collapsed for each in got)
    for each in got:
        assert each.response is not None
        assert each.response.fields.lines == tuple(lines[-1:] if each.cache_status.collapsed else lines)


async def test_what_is_not_public_is_for_nobody_who_waited_for_it(world: World) -> None:
    """Of a list that all share nothing but a span is given to another, however often others waited in vain."""
    world.upstream.gate.clear()
    world.upstream.failing = Response(200, Fields(), b'{"images":[{"id":"1","visibility":"private"}]}')
    tokens = [f"token-{number}" for number in range(6)]
    asks = [world.ask("visibility=public", token=token) for token in tokens]
    everyone = world.asking.partitioner.public_partition
    shared = [replace(ask, key=replace(ask.key, partition=everyone), public_only=True) for ask in asks]
    crowd = [asyncio.create_task(world.gateway.answer(ask)) for ask in shared]
    await world.upstream.asked.wait()
    await asyncio.sleep(0)
    world.upstream.gate.set()
    got = await asyncio.gather(*crowd)
    assert {each.cache_status.detail for each in got} == {"not-public"}
    assert not any(each.cache_status.collapsed for each in got)
    assert sorted(request.fields.get("x-auth-token") or "" for request in world.upstream.requests) == tokens


@pytest.mark.parametrize("status", [400, 404])
async def test_what_one_was_refused_of_a_public_list_no_other_is(world: World, status: int) -> None:
    """A refusal is remembered for who shares a partition, and who share a public list do not."""
    everyone = world.asking.partitioner.public_partition
    asks = [world.ask("visibility=public", token=token) for token in ("alpha", "beta")]
    alpha, beta = (replace(ask, key=replace(ask.key, partition=everyone), public_only=True) for ask in asks)
    world.upstream.failing = Response(status, Fields(), b"project alpha: not allowed")
    first = await world.gateway.answer(alpha)
    assert first.response is world.upstream.failing
    world.upstream.failing = None
    second = await world.gateway.answer(beta)
    assert (second.cache_status.fwd_status, len(world.upstream.targets)) == (200, 2)


async def test_an_upstream_that_does_not_answer_is_an_error(world: World) -> None:
    """Nothing stored, nothing to give."""
    world.upstream.failing = unreachable()
    with pytest.raises(UpstreamTimeoutError):
        await world.get("limit=10")


STALE = Lifetimes(60.0, stale_while_revalidate_s=30.0, stale_if_error_s=600.0)


async def test_stale_pages_are_given_while_they_are_fetched_anew(make_world: MakeWorld) -> None:
    """Within the window the caller does not wait, one call renews the span, and the next caller has it fresh."""
    world = make_world(lifetimes=STALE)
    await world.get("limit=10")
    world.passes(70)
    got = await world.get("limit=10")
    assert (got.age_s, got.ttl_s) == (70.0, -10.0)
    assert got.cache_status.fwd is None
    await world.settled()
    assert len(world.upstream.targets) == 2
    assert (await world.get("limit=10")).age_s == 0.0
    assert len(world.upstream.targets) == 2


@pytest.mark.parametrize("failure", [unreachable(), *(Response(status) for status in (429, 500, 502, 503, 504))])
async def test_stale_pages_stand_in_for_errors(make_world: MakeWorld, failure: Response | Exception) -> None:
    """Behind the first window the upstream is asked, and while it fails what there is is given."""
    world = make_world(lifetimes=STALE)
    await world.get("limit=10")
    world.passes(500)
    world.upstream.failing = failure
    got = await world.get("limit=5")
    assert got.page is not None
    assert got.age_s == 500.0
    assert len(world.upstream.targets) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404])
async def test_a_refusal_is_no_failure(make_world: MakeWorld, status: int) -> None:
    """What the upstream refuses is not given from the store."""
    world = make_world(lifetimes=STALE)
    await world.get("limit=10")
    world.passes(500)
    world.upstream.failing = Response(status, Fields(), b"no")
    got = await world.get("limit=10")
    assert got.response is not None
    assert got.response.status == status


async def test_a_rejected_token_sees_nothing_stored(make_world: MakeWorld) -> None:
    """After a 401 its lists are gone, those of another token are not."""
    world = make_world(lifetimes=STALE)
    await world.get("limit=10")
    await world.get("limit=10", token="beta")
    world.upstream.failing = Response(401, Fields(), b"revoked")
    assert (await world.get("name=other")).response is not None
    assert (await world.get("limit=10")).response is not None
    assert (await world.get("limit=10", token="beta")).page is not None


async def test_a_verdict_that_is_never_believed_asks_every_time(make_world: MakeWorld) -> None:
    """With a verdict's lifetime of zero nothing is answered that the upstream has not just allowed."""
    world = make_world(verdict_ttl_s=0.0)
    for _ in range(3):
        await world.get("limit=10")
    assert len(world.upstream.targets) == 3


@pytest.mark.parametrize(
    ("directive", "calls"),
    [("no-cache", 2), ("max-age=5", 2), ("max-age=20", 1), ("min-fresh=55", 2), ("min-fresh=10", 1)],
)
async def test_a_caller_may_ask_for_newer(world: World, directive: str, calls: int) -> None:
    """`Cache-Control` of a request bounds what is given from the store."""
    await world.get("limit=10")
    world.passes(10)
    got = await world.get("limit=10", Cache_Control=directive)
    assert got.page is not None
    assert len(world.upstream.targets) == calls


async def test_only_if_cached_never_asks(world: World) -> None:
    """What is not there ends in an error of the proxy's own; what is there is given."""
    with pytest.raises(NotCachedError):
        await world.get("limit=10", Cache_Control="only-if-cached")
    assert world.upstream.targets == []
    await world.get("limit=10")
    assert (await world.get("limit=10", Cache_Control="only-if-cached")).page is not None


async def test_after_an_invalidation_nothing_from_before_is_given(make_world: MakeWorld) -> None:
    """Not fresh, not stale, and not joined from a fetch that began before it."""
    world = make_world(lifetimes=STALE)
    await world.get("limit=10")
    world.upstream.model = replace(world.upstream.model, rows=("new", *ROWS))
    await world.store.invalidate(["all"], now=world.now)
    assert (await world.ids("limit=10"))[0] == "new"
    world.upstream.failing = unreachable()
    await world.store.invalidate(["all"], now=world.now)
    with pytest.raises(UpstreamTimeoutError):
        await world.get("limit=10")


async def test_a_fetch_from_before_a_write_answers_nobody_after_it(world: World) -> None:
    """Who comes after the write does not wait for the fetch that began before, nor is its span used."""
    world.upstream.gate.clear()
    before = asyncio.create_task(world.get("limit=10"))
    await world.upstream.asked.wait()
    await world.store.invalidate(["all"], now=world.now)
    after = asyncio.create_task(world.get("limit=10"))
    for _ in range(10):
        await asyncio.sleep(0)
    world.upstream.gate.set()
    await asyncio.gather(before, after)
    assert len(world.upstream.targets) == 2
    assert (await world.get("limit=10")).cache_status.fwd is None
