"""`GET /stats`: the figures are what happened."""

from __future__ import annotations

import time
from typing import Any

import pytest
from aiohttp import web

from proxy import __version__
from proxy.demo.app import ImsLookalike, RecordedCall
from proxy.demo.throttle import ThrottlePolicy
from tests.support.redis import RedisServer
from tests.support.running import ALPHA, BETA, IMAGES, Proxy, a_proxy
from tests.support.waiting import until

LIST = "/v2/images?limit=5"


async def figures(proxy: Proxy) -> Any:
    """Return the figures."""
    answer = await proxy.admin.ask("/stats", token=None)
    assert answer.status == 200
    return answer.json()


async def test_a_proxy_that_was_asked_nothing_says_so(proxy: Proxy) -> None:
    """No ratio is made up where there is nothing to divide; no limit is known, nothing is closed."""
    told = await figures(proxy)
    assert (told["version"], told["requests"]["total"], told["upstream"]["calls"]) == (__version__, 0, 0)
    assert told["requests"]["hit_ratio"] is None
    assert told["requests"]["duration"]["hit"] == {"p50_s": None, "p99_s": None}
    assert told["budget"]["limit"] is told["budget"]["used"] is told["budget"]["cooldown_s"] is None
    assert told["circuit_breaker"] == {"open": False, "retry_in_s": None, "rejected": 0}
    assert told["store"]["parts"] == {"memory": "ok"}
    assert told["event_loop"]["lag_s"] >= 0


async def test_event_loop_that_was_blocked_is_shown_in_stats_and_metrics(proxy: Proxy) -> None:
    """Whatever held the loop for 0.3 s made every request of that moment wait, and both say so."""
    time.sleep(0.3)  # noqa: ASYNC251 - blocks the loop that the proxy runs on
    assert (await figures(proxy))["event_loop"]["lag_s"] >= 0.2
    text = (await proxy.admin.ask("/metrics", token=None)).body.decode()
    (line,) = [line for line in text.splitlines() if line.startswith("ims_proxy_event_loop_lag_seconds ")]
    assert float(line.split()[1]) >= 0.2


async def test_what_is_saved_is_what_clients_asked_less_what_the_upstream_was_asked(
    proxy: Proxy, upstream: ImsLookalike
) -> None:
    """Every request that was answered counts, whatever its route; and every call, whatever its purpose."""
    for _ in range(8):
        await proxy.client.ask(LIST)
    await proxy.client.ask(LIST, token=BETA)
    await proxy.client.ask("/v2/images/nowhere")
    await proxy.client.ask("/v2/images", method="POST", body=b"{}")
    told = await figures(proxy)
    assert told["upstream"]["calls"] == len(upstream.calls) == sum(told["upstream"]["by_purpose"].values())
    assert told["upstream"]["saved"] == 11 - len(upstream.calls)
    assert told["requests"]["total"] == 11
    assert (told["requests"]["hits"], told["requests"]["hit_ratio"]) == (7, 0.7)
    assert told["requests"]["by_route"]["list"]["uri-miss"] == 2
    assert told["requests"]["by_status"]["200"] >= 9
    assert 0 < told["requests"]["duration"]["hit"]["p50_s"] <= told["requests"]["duration"]["hit"]["p99_s"]
    assert 0 < told["store"]["bytes"] <= told["store"]["max_bytes"]
    assert (told["store"]["listings"], told["store"]["spans"]) == (2, 2)


async def test_a_budget_is_told_with_what_is_used_of_it(upstream: ImsLookalike) -> None:
    """The configured one from the start, in its own words."""
    async with a_proxy(upstream.base_url, budget={"calls": 4, "per_s": 600}) as proxy:
        assert (await figures(proxy))["budget"]["limit"] == {"calls": 4, "per_s": 600.0}
        for name in ("a", "b", "c"):
            await proxy.client.ask(f"/v2/images?name={name}")
        told = (await figures(proxy))["budget"]
        assert (told["used"], told["remaining_ratio"], told["budgets"]) == (3, 0.25, 1)
        await proxy.client.ask("/v2/images?name=d")
        assert (await figures(proxy))["budget"]["low"] == 1


async def test_a_limit_that_the_upstream_tells_is_told_and_its_gate_too(upstream: ImsLookalike) -> None:
    """After a 429 the gate is closed for the rest of the window, and who can't wait for so long is refused."""
    upstream.throttle = ThrottlePolicy(2, 300)
    async with a_proxy(upstream.base_url, budget={"max_wait_s": 10}) as proxy:
        answers = [await proxy.client.ask(f"/v2/images?name={name}") for name in ("a", "b", "c", "d")]
        assert [answer.status for answer in answers] == [200, 200, 429, 429]
        everything = await figures(proxy)
        assert everything["upstream"]["calls"] == len(upstream.calls)
        assert everything["upstream"]["saved"] == 2 - len(upstream.calls)
        told = everything["budget"]
        assert told["advertised_limits"] == {"user": {"calls": 2, "per_s": 300.0}}
        assert told["rejected"] >= 1
        assert everything["circuit_breaker"]["rejected"] == 0


async def test_a_call_that_was_made_again_counts_twice(upstream: ImsLookalike) -> None:
    """A throttled call waits and is made again: the caller sees one answer, the upstream two calls."""
    upstream.throttle = ThrottlePolicy(1, 1)
    async with a_proxy(upstream.base_url) as proxy:
        upstream.tokens["another"] = upstream.tokens[ALPHA]  # of the same project: one limit for both, learnt for each
        for token in (ALPHA, "another"):
            assert (await proxy.client.ask(LIST, token=token)).status == 200
        told = (await figures(proxy))["upstream"]
        assert told["calls"] == len(upstream.calls)
        assert told["saved"] == 2 - len(upstream.calls)
        assert told["retried"] == len(upstream.calls) - 2


async def test_an_open_breaker_is_told(upstream: ImsLookalike) -> None:
    """An upstream that failed too often is left alone, and when it is tried again is told."""

    async def script(_: RecordedCall) -> web.StreamResponse:
        return web.Response(status=503)

    upstream.response_hook = script
    async with a_proxy(upstream.base_url) as proxy:
        for _ in range(12):
            await proxy.client.ask("/v2/schemas/image", method="POST", body=b"{}")
        told = await figures(proxy)
        assert told["circuit_breaker"]["open"]
        assert 0 <= told["circuit_breaker"]["retry_in_s"] <= 30
        assert told["circuit_breaker"]["rejected"] == 12 - len(upstream.calls)
        assert told["budget"]["rejected"] == 0, "there was no lack of calls"
        assert told["requests"]["by_route"]["other"]
        assert told["upstream"]["calls"] == len(upstream.calls) < 12


async def test_the_parts_of_a_shared_store_are_told(upstream: ImsLookalike, tmp_path: Any) -> None:
    """Redis and the channel are well; once Redis is gone, both say what that means."""
    with RedisServer(tmp_path) as redis:
        async with a_proxy(upstream.base_url, store={"url": redis.url}) as proxy:

            async def well() -> bool:
                return set((await figures(proxy))["store"]["parts"].values()) == {"ok"}

            await until(well)
            assert set((await figures(proxy))["store"]["parts"]) == {"memory", "redis", "invalidation_bus"}
            assert (await figures(proxy))["store"]["replicas"] == 1
            redis.stop()

            async def unwell() -> bool:
                await proxy.client.ask(LIST)
                parts = (await figures(proxy))["store"]["parts"]
                return "ok" not in (parts["redis"], parts["invalidation_bus"])

            await until(unwell)
            assert (await figures(proxy))["store"]["errors"]


@pytest.mark.parametrize("count", [1, 30])
async def test_a_crawl_counts_its_pages_and_its_calls(upstream: ImsLookalike, count: int) -> None:
    """Readahead is a purpose of its own, and what it saves shows."""
    async with a_proxy(upstream.base_url, cache={"readahead": True, "transient_ttl_s": 60}) as proxy:
        target: str | None = "/v2/images?limit=10"
        for _ in range(count):
            target = (await proxy.client.ask(target or "", token=ALPHA)).json().get("next")
            if target is None:
                break
        told = await figures(proxy)
        assert told["requests"]["total"] <= min(count, IMAGES // 10)
        assert told["upstream"]["calls"] <= min(count, 6)
        assert told["upstream"]["saved"] == told["requests"]["total"] - told["upstream"]["calls"]
