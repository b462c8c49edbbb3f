"""Redis dies, comes back empty, or freezes while a fleet is under way: dearer, but never wrong and never late."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp
import orjson
import pytest

from proxy.demo.app import ImsLookalike
from proxy.runtime.app import RunningProxy
from proxy.storage.circuit_breaker import MAX_SILENT_WAITS
from tests.conftest import Say
from tests.support.redis import RedisServer
from tests.support.replicas import list_calls, metric, replicas, round_robin, settings
from tests.support.trace import Crawl, run

MOST_WAITS = 4 * MAX_SILENT_WAITS  # of the first few requests, for what is stored and for the budget
ASKED = 40
TOKEN = "fleet-token-0-0"

Trouble = Callable[[RedisServer, int], None]


def killed(redis: RedisServer, crawl: int) -> None:
    """Kill Redis in the middle of the trace, and have it back, empty, towards its end."""
    if crawl == 20:
        redis.kill()
    if crawl == 50:
        redis.restart()


def frozen(redis: RedisServer, crawl: int) -> None:
    """Freeze Redis in the middle of the trace, and thaw it towards its end."""
    if crawl == 20:
        redis.pause()
    if crawl == 50:
        redis.resume()


def flapping(redis: RedisServer, crawl: int) -> None:
    """Kill and restart Redis again and again."""
    if crawl % 10 == 5:
        redis.kill()
    if crawl % 10 == 9:
        redis.restart()


@pytest.mark.parametrize("trouble", [killed, frozen, flapping])
async def test_a_trace_goes_on_without_redis(
    lookalike: ImsLookalike, trace: list[Crawl], redis: RedisServer, trouble: Trouble, say: Say
) -> None:
    """Whatever becomes of Redis, every crawl finds what the upstream holds."""
    started = iter(range(len(trace)))
    one_at_a_time = asyncio.Lock()

    async def began(_: Crawl) -> None:
        async with one_at_a_time:
            await asyncio.to_thread(trouble, redis, next(started))

    async with replicas(2, settings(lookalike.base_url, store=redis.url)) as proxies:
        origin = round_robin(proxies)
        try:
            figures = await run(
                trace[:70], lookalike.catalogue, lambda: list_calls(lookalike), lambda _: origin, began=began
            )
        finally:
            if trouble is frozen:
                redis.resume()
    say(f"Redis {trouble.__name__}: {figures}")
    assert not figures.wrong


async def test_a_frozen_redis_costs_a_request_its_time_limit_once(
    lookalike: ImsLookalike, redis: RedisServer, say: Say
) -> None:
    """Of forty misses in a row only the first few wait for the frozen store."""
    async with (
        replicas(1, settings(lookalike.base_url, store=redis.url)) as (proxy,),
        aiohttp.ClientSession() as client,
    ):
        calm = [await seconds(missed(client, proxy, f"calm-{number}")) for number in range(ASKED)]
        before = await metric(client, [proxy], "ims_proxy_store_errors_total")
        redis.pause()
        costs = [await seconds(missed(client, proxy, f"frozen-{number}")) for number in range(ASKED)]
        waits = await metric(client, [proxy], "ims_proxy_store_errors_total") - before
        redis.resume()
    say(
        f"frozen Redis: {waits:.0f} waits, dearest {max(costs):.3f}s, "
        f"{ASKED} in {sum(costs):.2f}s, {sum(calm):.2f}s before"
    )
    assert 0 < waits <= MOST_WAITS


async def missed(client: aiohttp.ClientSession, proxy: RunningProxy, name: str) -> None:
    """Ask for a listing that nobody has asked for."""
    async with client.get(f"{proxy.url}/v2/images?name={name}", headers={"X-Auth-Token": TOKEN}) as response:
        assert response.status == 200
        assert orjson.loads(await response.read())["images"] == []


async def seconds(work: Awaitable[None]) -> float:
    """Return how long *work* takes."""
    began = asyncio.get_running_loop().time()
    await work
    return asyncio.get_running_loop().time() - began
