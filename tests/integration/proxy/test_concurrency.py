"""Many callers at once, and callers who go away."""

from __future__ import annotations

import asyncio

import pytest

from proxy.demo.app import ImsLookalike, RecordedCall
from tests.support.running import BETA, Client, Proxy, a_proxy
from tests.support.waiting import until

LIST = "/v2/images?limit=5"


class Gate:
    """Holds the look-alike's answers back until it is opened."""

    def __init__(self, upstream: ImsLookalike) -> None:
        self.arrived = asyncio.Event()
        self.opened = asyncio.Event()
        upstream.response_hook = self.script

    async def script(self, _: RecordedCall) -> None:
        self.arrived.set()
        await self.opened.wait()


@pytest.fixture
def gate(upstream: ImsLookalike) -> Gate:
    return Gate(upstream)


async def collapsed(proxy: Proxy, count: int) -> None:
    """Return once *count* requests wait for another's fetch."""

    async def are_waiting() -> bool:
        return await proxy.metric("ims_proxy_collapsed_requests_total") >= count

    await until(are_waiting)


async def test_a_hundred_equal_misses_cost_one_call(
    proxy: Proxy, client: Client, upstream: ImsLookalike, gate: Gate
) -> None:
    """One goes upstream, ninety-nine wait for it, and all get the same list."""
    callers = [asyncio.create_task(client.ask(LIST)) for _ in range(100)]
    await collapsed(proxy, 99)
    gate.opened.set()
    answers = await asyncio.gather(*callers)
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    assert sum("collapsed" in answer.cache_status for answer in answers) == 99
    assert upstream.call_counts == {"GET /v2/images": 1}


async def test_a_caller_who_hangs_up_cancels_nothing(
    proxy: Proxy, client: Client, upstream: ImsLookalike, gate: Gate
) -> None:
    """The first caller goes; who waits for the same list gets it from the same call."""
    first = asyncio.create_task(client.ask(LIST))
    async with asyncio.timeout(60):
        await gate.arrived.wait()
    others = [asyncio.create_task(client.ask(LIST)) for _ in range(3)]
    await collapsed(proxy, 3)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    gate.opened.set()
    assert {answer.status for answer in await asyncio.gather(*others)} == {200}
    assert upstream.call_counts == {"GET /v2/images": 1}


async def test_what_was_fetched_for_someone_who_left_is_stored(
    client: Client, upstream: ImsLookalike, gate: Gate
) -> None:
    """The next caller does not cause another call."""
    first = asyncio.create_task(client.ask(LIST))
    async with asyncio.timeout(60):
        await gate.arrived.wait()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    gate.opened.set()
    assert (await client.ask(LIST)).status == 200
    assert upstream.call_counts == {"GET /v2/images": 1}


async def test_a_forwarded_request_ends_with_its_caller(client: Client, upstream: ImsLookalike, gate: Gate) -> None:
    """Nobody else waits for it, so the call upstream is given up."""
    gone = asyncio.create_task(client.ask("/v2/images/x/members"))
    async with asyncio.timeout(60):
        await gate.arrived.wait()
        (call,) = upstream.calls
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)

    async def given_up() -> bool:
        return call.transport is None or call.transport.is_closing()

    await until(given_up)
    gate.opened.set()


async def test_two_partitions_never_share_a_flight(client: Client, upstream: ImsLookalike, gate: Gate) -> None:
    """The same query with two tokens at the same moment is two calls and two lists."""
    callers = [asyncio.create_task(client.ask(LIST, token=token)) for token in ("demo-token-alpha", BETA) * 10]

    async def both_fly() -> bool:
        return len(upstream.calls) >= 2

    await until(both_fly)
    gate.opened.set()
    answers = await asyncio.gather(*callers)
    assert upstream.call_counts == {"GET /v2/images": 2}
    lists = {answer.body for answer in answers[::2]}, {answer.body for answer in answers[1::2]}
    assert [len(bodies) for bodies in lists] == [1, 1]
    assert lists[0] != lists[1]


async def test_one_of_many_with_a_bad_token_is_refused_alone(client: Client, upstream: ImsLookalike) -> None:
    """Whatever is in flight, a 401 goes to its own caller."""
    tokens = ["demo-token-alpha", "unknown", BETA] * 20
    answers = await asyncio.gather(*(client.ask(LIST, token=token) for token in tokens))
    assert [answer.status for answer in answers] == [401 if token == "unknown" else 200 for token in tokens]


async def test_slow_readers_hold_up_nobody(upstream: ImsLookalike) -> None:
    """A caller who never reads a long list leaves the others their answers."""
    async with a_proxy(upstream.base_url) as proxy:
        host, _, port = proxy.client.url.removeprefix("http://").rpartition(":")
        lazy = [await asyncio.open_connection(host, int(port)) for _ in range(20)]
        for _, writer in lazy:
            writer.write(b"GET /v2/cloudimages HTTP/1.1\r\nHost: x\r\nX-Auth-Token: demo-token-alpha\r\n\r\n" * 20)
        answers = await asyncio.gather(*(proxy.client.ask(LIST) for _ in range(50)))
        assert {answer.status for answer in answers} == {200}
        for _, writer in lazy:
            writer.transport.abort()
