"""Process memory before Redis: what is believed, and what an outage costs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import orjson
import pytest
from redis.asyncio.client import PubSub

from proxy.core.cache_key import ALL_TAG
from proxy.core.span import LIST_START
from proxy.errors import StoreUnavailableError
from proxy.observability.event_loop import LoopClock
from proxy.storage.circuit_breaker import MAX_SILENT_WAITS
from proxy.storage.memory import MemoryStore
from proxy.storage.redis import connect
from proxy.storage.tiered import OutageMode, TieredStore
from tests.support.redis import RedisServer
from tests.support.spans import KEY, NOW, a_span, chained, keep
from tests.support.stores import KEEP_S, PREFIX
from tests.support.waiting import until

TIMEOUT_S = 0.5
LIMIT_S = 0.2  # where its silence is what is tried
NEAR_TTL_S = 1.0
WITHIN_S = 30.0


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that the test may kill or freeze."""
    with RedisServer(tmp_path) as running:
        yield running


@asynccontextmanager
async def a_replica(
    url: str,
    *,
    near_ttl_s: float = NEAR_TTL_S,
    timeout_s: float = TIMEOUT_S,
    failed: Callable[[str], None] = lambda _: None,
    listens_first: bool = True,
    outage_mode: OutageMode = OutageMode.CONSISTENT,
) -> AsyncIterator[TieredStore]:
    """Give the store of one replica, its bus up if it *listens_first*."""
    far = connect(url, prefix=PREFIX, keep_s=KEEP_S, timeout_s=timeout_s)
    store = TieredStore(
        MemoryStore(1 << 20),
        far,
        near_ttl_s=near_ttl_s,
        stale_s=60.0,
        timeout_s=timeout_s,
        on_failure=failed,
        loop_clock=LoopClock(),
        outage_mode=outage_mode,
    )
    store.start()
    try:
        if listens_first:
            await until(partial(listens, store))
        yield store
    finally:
        await store.close()


async def answers(store: TieredStore) -> bool:
    with suppress(StoreUnavailableError):
        await store.ping()
        return True
    return False


def listens(store: TieredStore) -> bool:
    return store.bus_up


async def kept(store: TieredStore) -> bool:
    """Return whether a span could be kept, which may fail within the limit."""
    with suppress(StoreUnavailableError):
        await keep(store, a_span())
        return True
    return False


async def news(listening: PubSub) -> dict[str, str]:
    """Return what the next invalidation says that *listening* hears of."""
    async with asyncio.timeout(WITHIN_S):
        async for message in listening.listen():
            if message["type"] == "message" and message["data"].startswith(b"i:"):
                told: dict[str, str] = orjson.loads(message["data"].split(b":", 3)[3])
                return told
    raise AssertionError("nothing more will be heard")


async def seconds(work: Awaitable[object]) -> float:
    loop = asyncio.get_running_loop()
    began = loop.time()
    with suppress(StoreUnavailableError):
        await work
    return loop.time() - began


async def test_a_frozen_redis_costs_its_time_limit_and_then_nothing(own_server: RedisServer) -> None:
    """Requests go on with what memory has; of forty only the first few wait, one after the other."""
    failures: list[str] = []
    async with a_replica(own_server.url, timeout_s=LIMIT_S, failed=failures.append) as store:
        own_server.pause()
        for number in range(40):
            await store.lookup(replace(KEY, query=f"name={number}"), LIST_START, 5, now=NOW)
        assert store.breaker.is_open
        own_server.resume()
        await until(lambda: not store.breaker.is_open)
    assert len(failures) <= MAX_SILENT_WAITS


async def test_a_frozen_redis_holds_up_a_hundred_callers_once(own_server: RedisServer) -> None:
    """Callers at the same moment wait beside each other, not one after the other."""
    async with a_replica(own_server.url, timeout_s=LIMIT_S) as store:
        own_server.pause()
        keys = [replace(KEY, query=f"name={number}") for number in range(100)]
        took = await seconds(asyncio.gather(*(store.lookup(key, LIST_START, 5, now=NOW) for key in keys)))
        own_server.resume()
    assert took < len(keys) * LIMIT_S / 2, "one after the other they wait twice as long"


async def test_memory_that_could_only_join_a_page_is_not_enough_where_none_may_be(own_server: RedisServer) -> None:
    """Where one span has to hold all, another replica's that does is found in Redis, though memory has every image."""
    async with a_replica(own_server.url) as here, a_replica(own_server.url) as there:
        await keep(here, a_span(LIST_START, 3), a_span("c", 3))
        await keep(there, a_span("a", 8, fetched_at=NOW + 1))
        found = await here.lookup(KEY, "b", 4, can_join=False, now=NOW + 1)
        assert [(piece.span.marker, piece.start) for piece in found.slices] == [("a", 1)]


async def test_a_killed_redis_costs_no_caller_an_answer(own_server: RedisServer) -> None:
    """Every call answers or says that the store is away, at once; restarted, it is used again."""
    async with a_replica(own_server.url) as store:
        await keep(store, a_span())
        own_server.kill()
        assert await seconds(store.lookup(KEY, "zzz", 5, now=NOW)) < WITHIN_S, "refused connections are not waited for"
        claim = await store.acquire_lock(KEY, LIST_START, now=NOW)
        assert claim.fence is not None, "without Redis every replica is on its own"
        await seconds(store.put(KEY, replace(a_span(), generation=claim.state.generation), keep_s=60, now=NOW))
        own_server.start()
        await until(partial(answers, store))
        await until(partial(listens, store))
        await keep(store, a_span())
        async with a_replica(own_server.url) as other:
            assert await chained(other) == [(LIST_START, 0)]


async def test_what_one_replica_invalidates_no_other_uses(own_server: RedisServer) -> None:
    """When the invalidation returns, memory of other replicas has another generation already."""
    async with a_replica(own_server.url) as one, a_replica(own_server.url) as other:
        for number in range(10):
            await keep(one, a_span(fetched_at=NOW + number))
            for store in (one, other):
                found = await store.lookup(KEY, LIST_START, 4, now=NOW + number)
                assert [piece.span.generation for piece in found.slices] == [found.state.generation]
            await one.invalidate([ALL_TAG] if number % 2 else KEY.tags[1:2], now=NOW + number)
            for store in (one, other):
                found = await store.lookup(KEY, LIST_START, 4, now=NOW + number)
                assert all(piece.span.generation != found.state.generation for piece in found.slices)


async def test_news_that_come_late_bring_nothing_back(own_server: RedisServer) -> None:
    """Of two writes at once the one that Redis knew first is told last: what was fetched between them is not used."""
    async with a_replica(own_server.url) as one, a_replica(own_server.url) as other:
        await one.far.invalidate([ALL_TAG], now=NOW)
        await keep(other, a_span())
        await other.invalidate([ALL_TAG], now=NOW)
        await one.bus.publish([ALL_TAG], pending_until=0.0)
        for store in (one, other):
            found = await store.lookup(KEY, LIST_START, 4, now=NOW)
            assert all(piece.span.generation != found.state.generation for piece in found.slices)


async def test_a_writer_waits_for_each_replica_and_not_for_so_many(own_server: RedisServer) -> None:
    """One that may still believe its memory is waited for, however often those acknowledge that need not have."""
    async with a_replica(own_server.url, near_ttl_s=2 * WITHIN_S) as store, store.far.redis.pubsub() as newcomer:
        redis, names = store.far.redis, store.far.names
        await redis.zadd(names.replicas, {"cut-off": 2**40})
        await newcomer.subscribe(names.channel)
        telling = asyncio.create_task(store.bus.publish([ALL_TAG], pending_until=0.0))
        told = await news(newcomer)
        for name in ("newcomer", "newcomer"):
            await redis.publish(f"{names.channel}:{told['to']}", f"a:{told['of']}:{name}")
        heard = asyncio.create_task(store.bus.wait_for("w:after", timeout_s=WITHIN_S))
        await asyncio.sleep(0)
        await redis.publish(names.channel, "w:after")
        await heard
        await store.ping()
        assert not telling.done()
        await redis.publish(f"{names.channel}:{told['to']}", f"a:{told['of']}:cut-off")
        async with asyncio.timeout(WITHIN_S):
            await telling


async def test_a_write_while_redis_is_frozen_returns_in_bounded_time(own_server: RedisServer) -> None:
    """The writer's own replica forgets at once, and waits no longer than others may believe their memory."""
    async with a_replica(own_server.url, timeout_s=LIMIT_S) as store:
        await until(partial(kept, store))
        own_server.pause()
        async with asyncio.timeout(WITHIN_S):
            await store.invalidate([ALL_TAG], now=NOW)
        found = await store.lookup(KEY, LIST_START, 4, now=NOW)
        assert all(piece.span.generation != found.state.generation for piece in found.slices)
        own_server.resume()


async def test_a_restarted_redis_brings_nothing_back(own_server: RedisServer) -> None:
    """What memory learnt from a server that has lost its generations is not believed as it was."""
    async with a_replica(own_server.url) as one, a_replica(own_server.url) as other:
        await keep(one, a_span())
        await one.invalidate([ALL_TAG], now=NOW)
        own_server.restart()
        for store in (one, other):
            await until(partial(answers, store))
            await until(partial(listens, store))
            found = await store.lookup(KEY, LIST_START, 4, now=NOW)
            assert all(piece.span.generation != found.state.generation for piece in found.slices)


async def test_a_restarted_redis_gets_the_secret_again(own_server: RedisServer) -> None:
    """A replica that starts after the restart makes the same partitions as one that went through it."""
    async with a_replica(own_server.url) as store:
        secret = await store.shared_secret(b"1" * 32)
        own_server.restart()
        await until(partial(answers, store))
        await until(partial(listens, store))
        async with a_replica(own_server.url) as later:
            assert await later.shared_secret(b"2" * 32) == secret


async def test_who_waits_for_another_replica_is_woken_when_it_is_done(own_server: RedisServer) -> None:
    """The claim that was given back wakes the waiting replica long before its time is up."""
    async with a_replica(own_server.url) as one, a_replica(own_server.url) as other:
        claim = await one.acquire_lock(KEY, LIST_START, now=NOW)
        assert (await other.acquire_lock(KEY, LIST_START, now=NOW)).fence is None
        waiting = asyncio.create_task(other.wait_for_release(KEY, LIST_START, timeout_s=2 * WITHIN_S))
        await asyncio.sleep(0)
        await one.release_lock(KEY, LIST_START, claim)
        async with asyncio.timeout(WITHIN_S):
            await waiting


async def test_closing_ends_whatever_the_channel_was_doing(server: RedisServer) -> None:
    """At any moment of its beat the channel stops when it is told to, and the process can end."""
    others = asyncio.all_tasks()
    for moment in range(20):
        far = connect(server.url, prefix=PREFIX, keep_s=KEEP_S, timeout_s=LIMIT_S)
        store = TieredStore(
            MemoryStore(1 << 20),
            far,
            near_ttl_s=0.01,
            stale_s=60.0,
            timeout_s=LIMIT_S,
            on_failure=lambda _: None,
            loop_clock=LoopClock(),
        )
        store.start()
        await asyncio.sleep(0.05 + moment / 500)
        closing = asyncio.create_task(store.close())
        _, hung = await asyncio.wait([closing], timeout=WITHIN_S)
        while left := asyncio.all_tasks() - others:
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=0.1)
        assert not hung, f"still closing after {WITHIN_S:g}s, in round {moment}"


@pytest.mark.parametrize(
    "message",
    [
        b"i:",
        b"i:[]",
        b'i:{"of": 1}',
        b'i:{"of": 1, "to": "x", "scopes": 5, "unsettled_until": 0}',
        b"w:\xff",
        b"a:\xff",
    ],
)
async def test_a_message_that_can_t_be_read_is_taken_for_news_that_were_missed(
    own_server: RedisServer, message: bytes
) -> None:
    """Nothing from before it is believed, and the channel is up again after it."""
    async with a_replica(own_server.url) as store, a_replica(own_server.url) as other:
        await keep(store, a_span())
        before = store.epoch
        await store.far.redis.publish(store.far.names.channel, message)
        await until(lambda: store.epoch not in (None, before))
        await until(partial(listens, other))
        await other.invalidate([ALL_TAG], now=NOW)
        found = await store.lookup(KEY, LIST_START, 1, now=NOW)
        assert all(piece.span.generation != found.state.generation for piece in found.slices)


async def test_a_replica_s_name_that_is_no_text_holds_nobody_up(own_server: RedisServer) -> None:
    """Whoever put it among the replicas, the channel goes on."""
    async with a_replica(own_server.url) as store:
        await store.far.redis.zadd(store.far.names.replicas, {b"\xff": 2**40})
        async with a_replica(own_server.url) as other:
            await keep(store, a_span())
            await other.invalidate([ALL_TAG], now=NOW)
            found = await store.lookup(KEY, LIST_START, 4, now=NOW)
            assert all(piece.span.generation != found.state.generation for piece in found.slices)


async def fresh_at(store: TieredStore, now: float) -> bool:
    """Return whether *store* answers at *now* from a span that was kept at NOW."""
    found = await store.lookup(KEY, LIST_START, 4, now=now)
    return any(piece.span.generation == found.state.generation for piece in found.slices)


async def lose_redis(server: RedisServer, *stores: TieredStore) -> None:
    server.kill()
    await until(lambda: all(store.bus.session is None for store in stores))


async def test_lone_replica_believes_its_memory_to_the_end_of_its_lifetimes(own_server: RedisServer) -> None:
    async with a_replica(own_server.url) as store:
        await keep(store, a_span())
        await lose_redis(own_server, store)
        assert await fresh_at(store, NOW + 30)
        loop = asyncio.get_running_loop()
        began = loop.time()
        await store.invalidate([ALL_TAG], now=NOW + 30)
        assert loop.time() - began < NEAR_TTL_S, "a write waits for nobody"
        assert not await fresh_at(store, NOW + 30)


async def test_replica_that_never_reached_redis_is_not_taken_to_be_alone(own_server: RedisServer) -> None:
    own_server.kill()
    async with a_replica(own_server.url, listens_first=False) as store:
        await until(lambda: store.breaker.is_open or bool(store.bus.down_reason))
        await keep_for_long(store)
        assert await fresh_at(store, NOW + NEAR_TTL_S / 2)
        assert not await fresh_at(store, NOW + 2 * NEAR_TTL_S)


async def test_replica_whose_peer_has_just_gone_is_not_taken_to_be_alone(own_server: RedisServer) -> None:
    """Redis dies in the middle of a rolling restart: a write through the successor hides what was before it."""
    async with a_replica(own_server.url) as store:
        async with a_replica(own_server.url) as other:
            await until(lambda: {store.bus.name, other.bus.name} <= (store.bus.peers & other.bus.peers))
        await keep_for_long(store)
        await lose_redis(own_server, store)
        async with a_replica(own_server.url, listens_first=False) as successor:
            await successor.invalidate([ALL_TAG], now=NOW + 2 * NEAR_TTL_S)
            assert not await fresh_at(store, NOW + 2 * NEAR_TTL_S)


async def keep_for_long(store: TieredStore) -> None:
    """Keep a span for long after its lifetime, in memory at least."""
    claim = await store.acquire_lock(KEY, LIST_START, now=NOW)
    with suppress(StoreUnavailableError):
        await store.put(KEY, replace(a_span(), generation=claim.state.generation), keep_s=600, now=NOW)


@pytest.mark.parametrize("mode", list(OutageMode))
async def test_outage_mode_says_how_long_memory_is_believed_where_others_were_seen(
    own_server: RedisServer, mode: OutageMode
) -> None:
    lifetime_s = a_span().lifetime_s
    async with a_replica(own_server.url, outage_mode=mode) as store, a_replica(own_server.url) as other:
        await until(lambda: {store.bus.name, other.bus.name} <= (store.bus.peers & other.bus.peers))
        await keep_for_long(store)
        await lose_redis(own_server, store)
        assert await fresh_at(store, NOW + NEAR_TTL_S / 2)
        assert await fresh_at(store, NOW + 2 * NEAR_TTL_S) == (mode is OutageMode.AVAILABLE)
        assert await fresh_at(store, NOW + lifetime_s - 1) == (mode is OutageMode.AVAILABLE)
        assert not await fresh_at(store, NOW + lifetime_s + 1), "then writes through others are seen"
        found = await store.lookup(KEY, LIST_START, 4, now=NOW + lifetime_s + 1)
        assert found.unconfirmed, "it is there for a caller who otherwise gets nothing"


async def test_memory_is_believed_while_the_bus_lives_whatever_becomes_of_commands(own_server: RedisServer) -> None:
    async with a_replica(own_server.url) as store, a_replica(own_server.url) as other:
        await until(lambda: {store.bus.name, other.bus.name} <= (store.bus.peers & other.bus.peers))
        await keep(store, a_span())
        store.breaker.open_reason = "the test says so"
        assert await fresh_at(store, NOW + 30)
        await other.invalidate([ALL_TAG], now=NOW + 30)
        assert not await fresh_at(store, NOW + 30)
        store.breaker.open_reason = ""


async def test_lock_that_was_granted_too_late_is_released(own_server: RedisServer) -> None:
    async with a_replica(own_server.url, timeout_s=LIMIT_S) as store, a_replica(own_server.url) as other:
        own_server.pause()
        claim = await store.acquire_lock(KEY, LIST_START, now=NOW)
        assert claim.fence == 0, "the request goes on without it"
        own_server.resume()

        async def is_free() -> bool:
            theirs = await other.acquire_lock(KEY, LIST_START, now=NOW)
            await other.release_lock(KEY, LIST_START, theirs)
            return bool(theirs.fence)

        await until(is_free)


async def test_span_is_in_redis_when_put_returns_where_another_replica_may_ask_for_it(own_server: RedisServer) -> None:
    """The client that got the page may ask another replica for the next one."""
    async with a_replica(own_server.url) as store, a_replica(own_server.url) as other:
        await until(lambda: not store.bus.is_alone)
        for number in range(20):
            key = replace(KEY, query=f"name={number}")
            state = (await store.lookup(key, LIST_START, 1, now=NOW)).state
            await store.put(key, a_span(generation=state.generation), keep_s=KEEP_S, now=NOW)
            assert await chained(other, key=key) == [(LIST_START, 0)]


async def test_put_does_not_wait_for_a_frozen_redis(own_server: RedisServer) -> None:
    """It waits for as long as an answer may be held up for other replicas, and no longer."""
    async with a_replica(own_server.url, timeout_s=30.0) as store, a_replica(own_server.url):
        await until(lambda: not store.bus.is_alone)
        own_server.pause()
        try:
            assert await seconds(store.put(KEY, a_span(), keep_s=KEEP_S, now=NOW)) < 10
        finally:
            own_server.resume()
