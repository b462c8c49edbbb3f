"""The shared store goes away and comes back while callers keep asking."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from proxy.demo.app import ImsLookalike
from proxy.storage.circuit_breaker import MAX_SILENT_WAITS
from tests.support.redis import RedisServer
from tests.support.running import ALPHA, BETA, Proxy, a_proxy
from tests.support.waiting import until

HANGS_S = 10.0
MOST_WAITS = 4 * MAX_SILENT_WAITS  # of the first few requests, for what is stored and for the budget


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that the test may kill or freeze."""
    with RedisServer(tmp_path) as running:
        yield running


@pytest.fixture
async def replicas(upstream: ImsLookalike, server: RedisServer) -> AsyncIterator[tuple[Proxy, Proxy]]:
    """Two proxies that share one Redis."""
    store = {"url": server.url}
    async with a_proxy(upstream.base_url, store=store) as one, a_proxy(upstream.base_url, store=store) as other:
        yield one, other


@pytest.fixture
def replica(replicas: tuple[Proxy, Proxy]) -> Proxy:
    return replicas[0]


async def seconds_for(proxy: Proxy, targets: list[str]) -> list[float]:
    """Ask for *targets* one after the other; every one is answered with a list. Return what each cost."""
    loop, costs = asyncio.get_running_loop(), []
    for target in targets:
        began = loop.time()
        answer = await proxy.client.ask(target)
        assert answer.status == 200, answer.body
        assert answer.ids is not None
        costs.append(loop.time() - began)
    return costs


def targets(count: int, limit: int = 3) -> list[str]:
    return [f"/v2/images?limit={limit}&x{number}=" for number in range(count)]


async def test_replicas_share_what_one_fetched(replicas: tuple[Proxy, Proxy], upstream: ImsLookalike) -> None:
    """A second replica asks Redis, not the upstream, and keeps partitions apart as the first does."""
    one, other = replicas
    first = await one.client.ask("/v2/images?limit=5")
    second = await other.client.ask("/v2/images?limit=5")
    assert second.hit
    assert second.ids == first.ids
    assert not (await other.client.ask("/v2/images?limit=5", token=BETA)).hit
    assert upstream.call_counts == {"GET /v2/images": 2}


async def test_a_write_through_one_replica_is_seen_by_the_other(replicas: tuple[Proxy, Proxy]) -> None:
    """What the other had in memory and in Redis is not given any more."""
    one, other = replicas
    for number in range(5):
        await other.client.ask("/v2/images?limit=5")
        assert (await other.client.ask("/v2/images?limit=5")).hit
        created = await one.client.ask(
            "/v2/images", method="POST", body=b'{"name":"n%d"}' % number, Content_Type="application/json"
        )
        assert created.status == 201
        assert created.json()["id"] in (await other.client.ask("/v2/images?limit=5")).ids


async def test_a_killed_redis_costs_nobody_an_answer(replica: Proxy, server: RedisServer) -> None:
    """Before, while and after: every request is answered, and the store is used again."""
    await seconds_for(replica, targets(3))
    asking = asyncio.create_task(seconds_for(replica, targets(60)))
    await asyncio.sleep(0)
    server.kill()
    costs = await asking
    assert max(costs) < HANGS_S, "refused connections are not waited for"
    assert (await replica.admin.ask("/readyz", token=None)).status == 200
    server.start()

    async def is_back() -> bool:
        return b'"store":"ok"' in (await replica.admin.ask("/readyz", token=None)).body

    await until(is_back)
    await seconds_for(replica, targets(3))


async def test_a_frozen_redis_costs_its_time_limit_and_then_nothing(
    upstream: ImsLookalike, server: RedisServer
) -> None:
    """Every request is answered; of forty only the first few wait for it."""
    async with a_proxy(upstream.base_url, store={"url": server.url}) as proxy:
        await seconds_for(proxy, targets(3))
        before = await proxy.metric("ims_proxy_store_errors_total")
        server.pause()
        await seconds_for(proxy, targets(40, limit=4))
        waits = await proxy.metric("ims_proxy_store_errors_total") - before
        server.resume()
    assert 0 < waits <= MOST_WAITS


async def test_a_frozen_redis_holds_up_no_crowd(upstream: ImsLookalike, server: RedisServer) -> None:
    """A hundred callers at the same moment wait for its time limit beside each other."""
    limit_s = 1.0
    async with a_proxy(upstream.base_url, store={"url": server.url, "timeout_ms": limit_s * 1000}) as proxy:
        await seconds_for(proxy, targets(1))
        server.pause()
        loop = asyncio.get_running_loop()
        began = loop.time()
        answers = await asyncio.gather(*(proxy.client.ask(target) for target in targets(100, limit=2)))
        took = loop.time() - began
        server.resume()
    assert {answer.status for answer in answers} == {200}
    assert took < len(answers) * limit_s / 2, "one after the other they wait twice as long"


async def test_a_proxy_starts_without_its_redis(upstream: ImsLookalike, server: RedisServer) -> None:
    """It answers from the upstream and its own memory, and says that the store is away."""
    server.kill()
    async with a_proxy(upstream.base_url, store={"url": server.url, "timeout_ms": 100}) as proxy:
        await seconds_for(proxy, targets(5))
        ready = await proxy.admin.ask("/readyz", token=None)
        assert ready.status == 200
        assert ready.json()["parts"]["store"].startswith("unavailable")
        assert await proxy.metric("ims_proxy_store_errors_total") > 0


async def test_a_full_redis_costs_nobody_an_answer(upstream: ImsLookalike, tmp_path: Path) -> None:
    """A server that refuses every write is a store that keeps nothing."""
    options = ("--maxmemory", "1", "--maxmemory-policy", "noeviction")
    with RedisServer(tmp_path, options=options) as full:
        async with a_proxy(upstream.base_url, store={"url": full.url}) as proxy:
            await seconds_for(proxy, targets(5) * 2)


@pytest.mark.parametrize("options", [("--requirepass", "other"), ("--rename-command", "EVAL", "")])
async def test_a_redis_that_refuses_costs_nobody_an_answer(
    upstream: ImsLookalike, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """Without the right password or the commands it takes, the store is away."""
    with RedisServer(tmp_path, options=options) as refusing:
        async with a_proxy(upstream.base_url, store={"url": refusing.url}) as proxy:
            await seconds_for(proxy, targets(5))
            assert (await proxy.client.ask("/v2/images?limit=3", token=ALPHA)).status == 200
