"""One fetch among replicas, and what becomes of it when the replica that leads it dies."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import aiohttp
import pytest

from proxy.demo.app import ImsLookalike, RecordedCall
from tests.conftest import Say
from tests.support.proxy import ProxyProcess
from tests.support.redis import RedisServer
from tests.support.replicas import SECRET, collapsed, list_calls, replicas, settings

TARGET = "/v2/images?visibility=public&limit=40"
FIELDS = {"X-Auth-Token": "fleet-token-0-0", "Accept-Encoding": "identity"}
WITHIN_S = 60.0
LAPSED_S = 4.0  # a lock expires in five: whoever waits takes over before


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    """A client that opens as many connections as it is asked for."""
    timeout = aiohttp.ClientTimeout(total=2 * WITHIN_S)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


Trouble = Callable[[ProxyProcess, RedisServer], None]


class Gate:
    """Holds the upstream's first answer until it is opened, and says when it is asked for."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.open = asyncio.Event()

    async def __call__(self, call: RecordedCall) -> None:
        """Be the look-alike's script."""
        first = not self.asked.is_set()
        self.asked.set()
        if first:
            await self.open.wait()


async def body(client: aiohttp.ClientSession, url: str, *, target: str = TARGET) -> bytes:
    """Return what the list at *url* is answered with."""
    async with client.get(url + target, headers=FIELDS) as response:
        assert response.status == 200, await response.text()
        return await response.read()


async def test_equal_misses_through_four_replicas_are_one_fetch(
    lookalike: ImsLookalike, redis: RedisServer, client: aiohttp.ClientSession
) -> None:
    """Two hundred callers who ask four replicas for the same page at once cost the upstream one call."""
    gate = Gate()
    lookalike.response_hook = gate
    each = settings(lookalike.base_url, store=redis.url)
    patient = each.upstream.model_copy(update={"read_timeout_s": 2 * WITHIN_S})  # until all have come
    async with replicas(4, each.model_copy(update={"upstream": patient})) as proxies:
        asking = [asyncio.create_task(body(client, proxies[number % 4].url)) for number in range(200)]
        async with asyncio.timeout(WITHIN_S):
            while await collapsed(client, proxies) < 200 - 4:
                await asyncio.sleep(0.1)
        gate.open.set()
        answers = await asyncio.gather(*asking)
    assert len(set(answers)) == 1
    assert len(list_calls(lookalike)) == 1


async def test_what_another_replica_fetched_is_taken_though_memory_has_some_of_it(
    lookalike: ImsLookalike, redis: RedisServer, client: aiohttp.ClientSession
) -> None:
    """Who waits for a longer span of the same beginning takes it; what was too short before is not looked at again."""
    movable = "/v2/images?visibility=public&sort_key=name&limit="
    async with replicas(2, settings(lookalike.base_url, store=redis.url)) as (one, other):
        for proxy in (one, other):
            await body(client, proxy.url, target=f"{movable}20")
        gate = Gate()
        lookalike.response_hook = gate
        led = asyncio.create_task(body(client, one.url, target=f"{movable}140"))
        async with asyncio.timeout(WITHIN_S):
            await gate.asked.wait()
        following = [asyncio.create_task(body(client, other.url, target=f"{movable}100")) for _ in range(2)]
        async with asyncio.timeout(WITHIN_S):
            while not await collapsed(client, [other]):
                await asyncio.sleep(0.1)
        gate.open.set()
        await asyncio.gather(led, *following)
    assert [call.target.rpartition("limit=")[2] for call in list_calls(lookalike)] == ["20", "140"]


@pytest.fixture
def processes(lookalike: ImsLookalike, redis: RedisServer, tmp_path: Path) -> Iterator[list[ProxyProcess]]:
    """Three replicas in processes of their own."""
    with ExitStack() as stack:
        made = []
        for number in range(3):
            directory = tmp_path / f"replica-{number}"
            directory.mkdir()
            each = {"IDENTITY__SECRET": SECRET, "SERVER__DRAIN_S": "0"}
            made.append(ProxyProcess(lookalike.base_url, directory, store=redis.url, settings=each))
        yield [stack.enter_context(proxy) for proxy in made]


def kill(leader: ProxyProcess, redis: RedisServer) -> None:
    os.kill(leader.program.pid, signal.SIGKILL)


def stop(leader: ProxyProcess, redis: RedisServer) -> None:
    os.kill(leader.program.pid, signal.SIGSTOP)


def flush(leader: ProxyProcess, redis: RedisServer) -> None:
    redis.command("FLUSHALL")


def stop_redis(leader: ProxyProcess, redis: RedisServer) -> None:
    redis.kill()


@pytest.mark.parametrize("trouble", [kill, stop, flush, stop_redis])
async def test_waiters_go_on_when_the_replica_they_wait_for_or_its_lock_is_gone(
    lookalike: ImsLookalike,
    redis: RedisServer,
    client: aiohttp.ClientSession,
    processes: list[ProxyProcess],
    trouble: Trouble,
    say: Say,
) -> None:
    """Fifty callers of two replicas wait for a third. Then each replica fetches once at the most, and soon."""
    leader, *others = processes
    gate = Gate()
    lookalike.response_hook = gate
    led = asyncio.create_task(body(client, leader.url))
    async with asyncio.timeout(WITHIN_S):
        await gate.asked.wait()
    following = [asyncio.create_task(body(client, proxy.url)) for proxy in others for _ in range(25)]
    async with asyncio.timeout(WITHIN_S):
        while await collapsed(client, others) < len(following) - len(others):
            await asyncio.sleep(0.1)
    began = asyncio.get_running_loop().time()
    trouble(leader, redis)
    try:
        answers = await asyncio.gather(*following)
        took_s = asyncio.get_running_loop().time() - began
    finally:
        os.kill(leader.program.pid, signal.SIGCONT)
        gate.open.set()
    await asyncio.gather(led, return_exceptions=True)
    calls = len(list_calls(lookalike)) - 1
    say(f"waiters after {trouble.__name__}: answered within {took_s:.2f}s, {calls} more calls")
    assert len(set(answers)) == 1
    assert calls <= (len(others) if trouble is stop_redis else 1)
    assert took_s < LAPSED_S


async def test_waiters_without_a_channel_ask_again_until_the_span_is_there(
    lookalike: ImsLookalike, redis: RedisServer, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """Replicas whose Redis user has no right to channels still collapse their fetches."""
    redis.command("ACL", "SETUSER", "mute", "on", ">not-a-real-password", "resetchannels", "~*", "+@all")
    url = f"redis://mute:not-a-real-password@{redis.url.removeprefix('redis://')}"
    gate = Gate()
    lookalike.response_hook = gate
    async with replicas(2, settings(lookalike.base_url, store=url)) as (one, other):
        led = asyncio.create_task(body(client, one.url))
        async with asyncio.timeout(WITHIN_S):
            await gate.asked.wait()
        following = [asyncio.create_task(body(client, other.url)) for _ in range(10)]
        async with asyncio.timeout(WITHIN_S):
            while await collapsed(client, [other]) < len(following) - 1:
                await asyncio.sleep(0.1)
        gate.open.set()
        answers = await asyncio.gather(led, *following)
    assert len(set(answers)) == 1
    assert len(list_calls(lookalike)) == 1
