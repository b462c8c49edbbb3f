"""What one caller may ask of a running proxy, and what it leaves undone as the budget runs low."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from proxy.demo.app import ImsLookalike, RecordedCall
from proxy.demo.seed import TOKENS, make_demo_catalogue
from tests.support.running import ALPHA, BETA, Answer, Proxy, a_proxy
from tests.support.waiting import until

LIST = "/v2/images?limit=5"


@pytest.fixture
async def upstream() -> AsyncIterator[ImsLookalike]:
    """The look-alike of IMS."""
    async with ImsLookalike(make_demo_catalogue(60), TOKENS) as lookalike:
        yield lookalike


def refusal(answer: Answer) -> tuple[int, str, bool]:
    """Return the status and code of an answer in the gateway's error shape, and whether it says when to come back."""
    told = answer.json()
    assert set(told) == {"error_code", "error_msg", "request_id"}
    assert told["request_id"] == answer.fields["X-Request-Id"]
    return answer.status, told["error_code"], int(answer.fields["Retry-After"]) >= 1


async def test_a_caller_has_so_many_requests_in_a_period_hits_included(upstream: ImsLookalike) -> None:
    """The fourth of three is refused, though it would have been a hit; another caller notices nothing."""
    async with a_proxy(upstream.base_url, clients={"calls": 3, "per_s": 600}) as proxy:
        assert [(await proxy.client.ask(LIST)).status for _ in range(3)] == [200] * 3
        refused = await proxy.client.ask(LIST)
        assert refusal(refused) == (429, "PROXY.0429", True)
        assert 500 < int(refused.fields["Retry-After"]) <= 601
        assert (await proxy.client.ask(LIST, token=BETA)).status == 200
    assert len(upstream.calls) == 2


async def test_a_caller_and_all_of_them_have_so_many_requests_at_once(upstream: ImsLookalike) -> None:
    """Beyond its own two a caller gets 429, beyond three for all of them anyone gets 503, and afterwards nobody."""
    gate = asyncio.Event()

    async def held(_: RecordedCall) -> web.StreamResponse | None:
        await gate.wait()
        return None

    upstream.response_hook = held
    async with a_proxy(
        upstream.base_url, clients={"max_concurrent": 2}, server={"max_concurrent": 3}, budget={"max_wait_s": 20}
    ) as proxy:

        async def under_way(count: int) -> None:
            async def arrived() -> bool:
                return len(upstream.calls) == count

            await until(arrived)

        waiting = [asyncio.ensure_future(proxy.client.ask(f"{LIST}&name={number}")) for number in range(2)]
        await under_way(2)
        assert refusal(await proxy.client.ask(f"{LIST}&name=3")) == (429, "PROXY.0429", True)
        waiting.append(asyncio.ensure_future(proxy.client.ask(LIST, token=BETA)))
        await under_way(3)
        assert refusal(await proxy.client.ask(LIST, token="anyone")) == (503, "PROXY.0503", True)
        gate.set()
        assert [answer.status for answer in await asyncio.gather(*waiting)] == [200] * 3
        assert (await proxy.client.ask(f"{LIST}&name=3")).status == 200


async def test_who_can_not_be_served_in_time_is_told_at_once_and_a_write_is_served(upstream: ImsLookalike) -> None:
    """With the budget spent a new list gets 429 with the time of the next call; a write finds the one left for it."""
    async with a_proxy(upstream.base_url, budget={"calls": 20, "per_s": 600, "max_wait_s": 5}) as proxy:
        answers = [await proxy.client.ask(f"{LIST}&name={number}") for number in range(20)]
        assert [answer.status for answer in answers] == [200] * 19 + [429]
        assert refusal(answers[-1]) == (429, "PROXY.0429", True)
        assert int(answers[-1].fields["Retry-After"]) > 500
        made = await proxy.client.ask(
            "/v2/images", method="POST", body=b'{"name": "x"}', Content_Type="application/json"
        )
        assert made.status == 201


async def low(proxy: Proxy) -> None:
    """Spend the budget of twenty down to less than its last quarter."""
    for number in range(15):
        await proxy.client.ask(f"/v2/images?limit=1&name={number}", token=ALPHA)


async def test_as_the_budget_runs_low_lifetimes_stretch_and_it_is_seen(upstream: ImsLookalike) -> None:
    """A list gone stale is given for `thrift` instead of fetched: in `Cache-Status`, the metrics and `/stats`."""
    cache = {"ttl_s": 0.001, "transient_ttl_s": 0.001, "stale_while_revalidate_s": 600}
    async with a_proxy(upstream.base_url, cache=cache, budget={"calls": 20, "per_s": 600}) as proxy:
        await proxy.client.ask(LIST)
        await low(proxy)
        calls = len(upstream.calls)
        given = await proxy.client.ask(LIST)
        assert given.status == 200
        assert "detail=budget-low" in given.cache_status
        assert len(upstream.calls) == calls
        assert await proxy.metric('ims_proxy_background_skipped_total{purpose="revalidate"}') == 1
        budget = (await proxy.admin.ask("/stats", token=None)).json()["budget"]
        assert budget["low"] == 1
        assert budget["background_skipped"]["revalidate"] == 1


async def test_as_the_budget_runs_low_nothing_is_read_ahead(upstream: ImsLookalike) -> None:
    """A caller who pages on is served from what there is, and the next span is not fetched before it is asked for."""
    async with a_proxy(upstream.base_url, cache={"readahead": True}, budget={"calls": 20, "per_s": 600}) as proxy:
        first = await proxy.client.ask("/v2/images?limit=20&sort_dir=asc")
        await low(proxy)
        calls = len(upstream.calls)
        second = await proxy.client.ask(f"/v2/images?limit=5&sort_dir=asc&marker={first.ids[14]}")
        assert second.hit
        assert len(upstream.calls) == calls
        assert await proxy.metric('ims_proxy_background_skipped_total{purpose="prefetch"}') == 1
