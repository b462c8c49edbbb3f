"""Replicas that reach Redis each by a way of its own, which the test cuts, stops up, or is faster than."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import aiohttp
import orjson
import pytest

from proxy.core.cache_key import ALL_TAG, CacheKey
from proxy.core.span import LIST_START
from proxy.demo.app import ImsLookalike
from proxy.demo.catalogue import Catalogue
from proxy.demo.seed import generate_images
from proxy.errors import StoreUnavailableError
from proxy.observability.event_loop import LoopClock
from proxy.runtime.app import run_proxy
from proxy.storage.base import FetchLock
from proxy.storage.memory import MemoryStore
from proxy.storage.redis import connect
from proxy.storage.tiered import TieredStore
from tests.support.history import START, Hand, History, Upstream, an_image
from tests.support.laws_world import replica
from tests.support.processes import LOOPBACK
from tests.support.redis import RedisServer
from tests.support.relay import Relay
from tests.support.replicas import settings
from tests.support.trace import PROJECTS, TOKENS
from tests.support.waiting import until

TOKEN = next(token for token, caller in TOKENS.items() if caller.project == PROJECTS[0])
LIST = "/v2/images?visibility=private&limit=20"
NEAR_TTL_S = 1.0
TIMEOUT_S = 0.5
WITHIN_S = 60.0
GOODBYE_S = 10.0


async def never() -> bool:
    return False


class Held(TieredStore):
    """A store whose claims are made when the test says so."""

    def __init__(self, url: str, near_ttl_s: float) -> None:
        far = connect(url, prefix="ims-test:", keep_s=60.0, timeout_s=TIMEOUT_S)
        memory, self.failures = MemoryStore(1 << 20), list[str]()
        failed = self.failures.append
        super().__init__(
            memory,
            far,
            near_ttl_s=near_ttl_s,
            stale_s=60.0,
            timeout_s=TIMEOUT_S,
            on_failure=failed,
            loop_clock=LoopClock(),
        )
        self.reached = asyncio.Event()
        self.gate = asyncio.Event()

    async def acquire_lock(self, key: CacheKey, marker: str, *, now: float) -> FetchLock:
        self.reached.set()
        await self.gate.wait()
        return await super().acquire_lock(key, marker, now=now)


@asynccontextmanager
async def two_stores(one: str, other: str, *, near_ttl_s: float = NEAR_TTL_S) -> AsyncIterator[tuple[Held, Held]]:
    """Give the stores of two replicas that hear each other."""
    stores = (Held(one, near_ttl_s), Held(other, near_ttl_s))
    try:
        for store in stores:
            store.start()
        await until(lambda: all(store.bus_up for store in stores))
        yield stores
    finally:
        for store in stores:
            await store.close()


async def test_what_was_fetched_between_a_look_and_a_claim_is_not_fetched_again(redis: RedisServer) -> None:
    """One replica finds nothing; before it claims, another fetches and gives its claim back: one call in all."""
    hand = Hand()
    upstream = Upstream(History(hand, [an_image(number, created_at=START - number) for number in range(9)]))
    async with two_stores(redis.url, redis.url) as stores:
        late, early = (replica(upstream, store, hand) for store in stores)
        stores[1].gate.set()
        asking = asyncio.create_task(late.gateway.answer(late.ask("limit=5")))
        await stores[0].reached.wait()
        assert (await early.gateway.answer(early.ask("limit=5"))).page is not None
        stores[0].gate.set()
        got = await asking
        assert got.page is not None
        assert got.cache_status.collapsed
        assert len(upstream.targets) == 1
        await late.gateway.close()
        await early.gateway.close()


async def test_a_breaker_that_is_open_on_one_replica_hides_no_write(redis: RedisServer) -> None:
    """A replica that leaves Redis alone after failures hears all the same that another took a write."""
    hand = Hand()
    upstream = Upstream(History(hand, [an_image(number, created_at=START - number) for number in range(9)]))
    async with Relay(redis.port) as way, two_stores(f"redis://{LOOPBACK}:{way.port}/0", redis.url) as (mine, others):
        here = replica(upstream, mine, hand)
        ask = here.ask("limit=5")
        mine.gate.set()
        way.cut()

        with suppress(StoreUnavailableError):
            await mine.ping()
        assert mine.failures
        mine.breaker._does_reply = never  # type: ignore[method-assign]  # it stays open for as long as the test takes
        await until(lambda: not mine.bus_up)
        way.mend()
        await until(lambda: mine.bus_up)
        await here.gateway.answer(ask)
        other = here.ask("status=active").key
        assert (await mine.lookup(other, LIST_START, 1, now=hand.now)).uncertainty
        upstream.history.becomes({})
        await others.invalidate([ALL_TAG], now=hand.now)
        got = await here.gateway.answer(ask)
        assert got.page is not None
        assert not got.page.parts or not got.page.parts[0].span.ids
        await here.gateway.close()


async def test_a_write_waits_for_a_replica_that_was_lately_there(redis: RedisServer) -> None:
    """One that Redis no longer knows of, as after a failover, may believe its memory for a while all the same."""
    loop = asyncio.get_running_loop()
    async with Relay(redis.port) as way, two_stores(redis.url, f"redis://{LOOPBACK}:{way.port}/0") as (mine, other):
        await until(lambda: {mine.bus.name, other.bus.name} <= mine.bus.peers)
        way.cut()
        await mine.far.redis.delete(mine.far.names.replicas)
        began = loop.time()
        await mine.invalidate([ALL_TAG], now=START)
        assert loop.time() - began >= NEAR_TTL_S


async def test_no_write_waits_for_a_replica_that_said_goodbye(redis: RedisServer) -> None:
    """One that was closed in order has no memory left to believe."""
    async with two_stores(redis.url, redis.url, near_ttl_s=1.5 * GOODBYE_S) as (mine, other):
        await until(lambda: {mine.bus.name, other.bus.name} <= mine.bus.peers)
        await other.close()
        async with asyncio.timeout(GOODBYE_S):
            await mine.invalidate([ALL_TAG], now=START)


async def test_a_write_whose_caller_hangs_up_while_replicas_are_told_is_heard_by_all(redis: RedisServer) -> None:
    """The change has been made; who goes away while one replica can't be told does not keep it from being told."""
    made = [
        image.with_changes(now=0, visibility="private") for image in generate_images(12, seed=3, owners=PROJECTS[:1])
    ]
    timeout = aiohttp.ClientTimeout(total=WITHIN_S)
    async with (
        AsyncExitStack() as stack,
        ImsLookalike(Catalogue(made), TOKENS) as upstream,
        Relay(redis.port) as way,
        aiohttp.ClientSession(timeout=timeout, headers={"X-Auth-Token": TOKEN}) as client,
    ):
        stores = (redis.url, f"redis://{LOOPBACK}:{way.port}/0")
        each = [settings(upstream.base_url, store=url) for url in stores]
        writer, reader = [await stack.enter_async_context(run_proxy(one)) for one in each]
        before = await shown(client, reader.url)
        way.stop_up()
        gone = asyncio.create_task(delete(client, writer.url, before[0]))
        await until(lambda: before[0] not in [image.id for image in upstream.catalogue])
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        way.mend()

        async def is_heard() -> bool:
            return await shown(client, reader.url) == before[1:]

        await until(is_heard)
        assert await shown(client, writer.url) == before[1:]


async def delete(client: aiohttp.ClientSession, url: str, image_id: str) -> None:
    """Delete an image."""
    async with client.delete(f"{url}/v2/images/{image_id}") as response:
        await response.read()


async def shown(client: aiohttp.ClientSession, url: str) -> list[str]:
    """Return the ids that a list shows."""
    async with client.get(url + LIST) as response:
        assert response.status == 200
        return [image["id"] for image in orjson.loads(await response.read())["images"]]
