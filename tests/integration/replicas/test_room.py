"""What strangers, and queries that come once, leave behind in Redis."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import aiohttp
import pytest
from redis.asyncio import Redis

from proxy.config.model import CacheSection
from proxy.demo.app import ImsLookalike
from proxy.storage.redis_scripts import UNUSED_MS
from tests.conftest import Say
from tests.support.redis import RedisServer
from tests.support.replicas import replicas, settings

REQUESTS = 1_000
AT_ONCE = 50
TOKEN = "fleet-token-0-0"
TTL_S, STALE_S = 5.0, 20.0
KEEP_MS = (TTL_S + STALE_S) * 1000
BUDGET_MS = 150_000.0  # how long what was called is of interest where no limit was told of: a call's time and a minute
OF_ALL = 12  # names that do not grow in number: of all listings, of one token, of the replicas, of the server


@dataclass(frozen=True, slots=True)
class Left:
    """What stands in Redis: how many names, their bytes, and the milliseconds that each lives on."""

    names: int
    taken_bytes: int
    live_ms: tuple[int, ...]

    def __str__(self) -> str:
        """Return the figures in one line."""
        minutes = Counter(each // 60_000 + 1 if each >= 0 else -1 for each in self.live_ms)
        lives = ", ".join(f"{count} within {each} min" for each, count in sorted(minutes.items()))
        return f"{self.names} names, {self.taken_bytes} bytes; gone: {lives}"


async def left(server: RedisServer) -> Left:
    """Return what stands in *server*."""
    async with Redis(port=server.port) as redis:
        names = [name async for name in redis.scan_iter(count=1000)]
        async with redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.memory_usage(name)
                pipe.pttl(name)
            said = await pipe.execute()
    there = [
        (taken, live_ms)
        for taken, live_ms in zip(said[::2], said[1::2], strict=True)
        if taken is not None and live_ms != -2
    ]
    return Left(len(there), sum(taken for taken, _ in there), tuple(live_ms for _, live_ms in there))


async def asked(url: str, requests: Iterable[tuple[str, str]]) -> Counter[int]:
    """Return how often which status was answered to *requests*, each a query and a token."""
    gate = asyncio.Semaphore(AT_ONCE)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as client:

        async def status(query: str, token: str) -> int:
            async with gate, client.get(f"{url}/v2/images?{query}", headers={"X-Auth-Token": token}) as response:
                await response.read()
                return response.status

        return Counter(await asyncio.gather(*(status(*each) for each in requests)))


@pytest.mark.parametrize("queries", ["one", "many"])
async def test_made_up_tokens_leave_little_and_not_for_long(
    lookalike: ImsLookalike, redis: RedisServer, say: Say, queries: str
) -> None:
    """What the upstream refused leaves names that are gone once no fetch can need them any more, and no more."""
    async with replicas(1, settings(lookalike.base_url, store=redis.url)) as (proxy,):
        strangers = [(f"name={number if queries == 'many' else ''}", f"made-up-{number}") for number in range(REQUESTS)]
        assert await asked(proxy.url, strangers) == {401: REQUESTS}
        there = await left(redis)
    say(f"{REQUESTS} made-up tokens, {queries} quer{'ies' if queries == 'many' else 'y'}: {there}")
    # The partition's generation, its budget's two, the listing's fences; with a query of its own a generation for that.
    assert there.names <= (5 if queries == "many" else 4) * REQUESTS + OF_ALL
    assert sum(each > UNUSED_MS or each == -1 for each in there.live_ms) <= OF_ALL
    assert sum(each > BUDGET_MS for each in there.live_ms) <= (3 if queries == "many" else 2) * REQUESTS + OF_ALL


async def test_queries_that_come_once_leave_nothing_for_longer_than_their_answers(
    lookalike: ImsLookalike, redis: RedisServer, say: Say
) -> None:
    """What an accepted token asks for once is forgotten when its answer is of no use any more."""
    each = settings(lookalike.base_url, store=redis.url)
    brief = CacheSection(ttl_s=TTL_S, stale_while_revalidate_s=STALE_S, stale_if_error_s=STALE_S)
    async with replicas(1, each.model_copy(update={"cache": brief})) as (proxy,):
        once = [(f"name=once-{number}&limit=10", TOKEN) for number in range(REQUESTS)]
        assert await asked(proxy.url, once) == {200: REQUESTS}
        there = await left(redis)
    say(f"{REQUESTS} queries: {there}")
    assert there.names <= 4 * REQUESTS + OF_ALL  # a span, its fences, and of its query the generation and the listings
    assert sum(each > KEEP_MS + UNUSED_MS or each == -1 for each in there.live_ms) <= OF_ALL
