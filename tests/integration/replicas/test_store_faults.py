"""What each fault of Redis costs two replicas under load: answers, upstream calls, the longest wait, and recovery."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Final

import aiohttp
import pytest

from proxy.demo.app import ImsLookalike, RecordedCall
from tests.conftest import Say
from tests.support.processes import LOOPBACK
from tests.support.proxy import ProxyProcess
from tests.support.redis import RedisServer
from tests.support.relay import Relay
from tests.support.replicas import SECRET, metric
from tests.support.waiting import until

CALLERS: Final = 16
LISTINGS: Final = 20
COLD: Final = 10
UPSTREAM_S: Final = 0.03
FAULT_S: Final = 3.0
NEAR_TTL_S: Final = 1.0  # the default of store.near_cache_ttl_s
HANGS_S: Final = 5.0  # what no fault costs, even on a machine that stands still for a while
TOKEN: Final = "fleet-token-0-0"


@dataclass
class Load:
    """Callers who ask two replicas for listings at random, one time in `COLD` for one that nobody has asked for."""

    client: aiohttp.ClientSession
    urls: list[str]
    answers: int = 0
    failures: list[str] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)
    cold_waits_s: list[float] = field(default_factory=list)
    new_names: Iterator[int] = field(default_factory=count)
    running: bool = True

    async def ask(self, seed: int) -> None:
        dice = random.Random(seed)
        loop = asyncio.get_running_loop()
        while self.running:
            cold = dice.randrange(COLD) == 0
            name = f"cold-{next(self.new_names)}" if cold else f"listing-{dice.randrange(LISTINGS)}"
            url = f"{dice.choice(self.urls)}/v2/images?limit=5&name={name}"
            began = loop.time()
            try:
                async with self.client.get(
                    url, headers={"X-Auth-Token": TOKEN, "X-Trace": str(dice.random())}
                ) as answer:
                    await answer.read()
                    if answer.status != 200:
                        self.failures.append(str(answer.status))
            except aiohttp.ClientError as error:
                self.failures.append(type(error).__name__)
            self.answers += 1
            (self.cold_waits_s if cold else self.waits_s).append(loop.time() - began)
            await asyncio.sleep(0.005)


@dataclass
class World:
    """Two replicas in processes of their own, which reach Redis by *way*."""

    redis: RedisServer
    way: Relay
    proxies: list[ProxyProcess]
    calls: Counter[str]


@pytest.fixture
async def world(lookalike: ImsLookalike, redis: RedisServer, tmp_path: Path) -> AsyncIterator[World]:
    calls: Counter[str] = Counter()

    async def slow(call: RecordedCall) -> None:
        calls[call.target] += 1
        await asyncio.sleep(UPSTREAM_S)

    lookalike.response_hook = slow
    async with Relay(redis.port) as way, AsyncExitStack() as stack:
        proxies = []
        for number in range(2):
            (home := tmp_path / f"replica-{number}").mkdir()
            url = f"redis://{LOOPBACK}:{way.port}/0"
            settings = {"IDENTITY__SECRET": SECRET, "SERVER__DRAIN_S": "0", "CACHE__READAHEAD": "false"}
            proxy = ProxyProcess(lookalike.base_url, home, store=url, settings=settings)
            await asyncio.to_thread(proxy.__enter__)
            stack.push_async_callback(asyncio.to_thread, proxy.__exit__, None, None, None)
            proxies.append(proxy)
        yield World(redis, way, proxies, calls)


@asynccontextmanager
async def load(world: World) -> AsyncIterator[Load]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as client:
        made = Load(client, [proxy.url for proxy in world.proxies])
        tasks = [asyncio.create_task(made.ask(seed)) for seed in range(CALLERS)]
        try:
            yield made
        finally:
            made.running = False
            await asyncio.gather(*tasks)


async def slow_by(world: World, delay_s: float) -> None:
    world.way.delay_s = delay_s / 2
    await asyncio.sleep(FAULT_S)
    world.way.delay_s = 0.0


async def slow_20_ms(world: World) -> None:
    await slow_by(world, 0.02)


async def slow_100_ms(world: World) -> None:
    await slow_by(world, 0.1)


async def slow_400_ms(world: World) -> None:
    await slow_by(world, 0.4)


async def hung(world: World) -> None:
    world.way.stop_up()
    await asyncio.sleep(FAULT_S)
    world.way.mend()


async def stopping_twice_a_second(world: World) -> None:
    for _ in range(int(2 * FAULT_S)):
        world.redis.pause()
        await asyncio.sleep(0.3)
        world.redis.resume()
        await asyncio.sleep(0.2)


async def killed(world: World) -> None:
    world.redis.kill()
    await asyncio.sleep(FAULT_S)
    await asyncio.to_thread(world.redis.start)


async def flushed(world: World) -> None:
    for _ in range(int(2 * FAULT_S)):
        world.redis.command("FLUSHALL")
        await asyncio.sleep(0.5)


async def full(world: World) -> None:
    world.redis.command("CONFIG", "SET", "maxmemory", "1")
    await asyncio.sleep(FAULT_S)
    world.redis.command("CONFIG", "SET", "maxmemory", "0")


Fault = Callable[[World], Awaitable[None]]
FAULTS: Final = [slow_20_ms, slow_100_ms, slow_400_ms, hung, stopping_twice_a_second, killed, flushed, full]
KEEPS_REDIS: Final = (slow_20_ms, slow_100_ms)  # Redis is slow, and is used all the same


@pytest.mark.parametrize("fault", FAULTS)
async def test_fault_of_redis_fails_no_answer_and_multiplies_no_calls(world: World, fault: Fault, say: Say) -> None:
    """Per listing and replica at most one upstream call in each `store.near_cache_ttl_s`, and no wait of seconds."""
    loop = asyncio.get_running_loop()
    async with load(world) as callers:
        await asyncio.sleep(1.0)
        before = world.calls.copy()
        callers.waits_s.clear()
        callers.cold_waits_s.clear()
        began = loop.time()
        await fault(world)
        ended = loop.time()
        await until(lambda: is_well(callers.client, world))
        recovered_s = loop.time() - ended
        elapsed_s = loop.time() - began
    calls = world.calls - before
    most = max((calls[target] for target in calls if "name=cold-" not in target), default=0)
    most_cold = max(calls[target] for target in calls if "name=cold-" in target)
    say(
        f"{fault.__name__}: {callers.answers} answers, {len(callers.failures)} failed, at most {most} calls a listing "
        f"in {elapsed_s:.1f}s, {most_cold} of a new one, longest wait {max(callers.waits_s):.2f}s, for a new listing "
        f"{max(callers.cold_waits_s):.2f}s, well again after {recovered_s:.2f}s"
    )
    assert callers.failures == []
    each_replica = 1 if fault in KEEPS_REDIS else elapsed_s // NEAR_TTL_S + 2
    assert most <= len(world.proxies) * each_replica
    assert most_cold == 1
    assert max(callers.waits_s + callers.cold_waits_s) < HANGS_S


async def is_well(client: aiohttp.ClientSession, world: World) -> bool:
    """Return whether both replicas use Redis and hear each other."""
    return await metric(client, world.proxies, "ims_proxy_store_circuit_open") == 0 and await metric(
        client, world.proxies, "ims_proxy_invalidation_bus_up"
    ) == len(world.proxies)
