"""The stores that the contract is run over."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from fakeredis import FakeAsyncRedis, FakeServer
from redis.asyncio import Redis

from proxy.observability.event_loop import LoopClock
from proxy.storage.base import SpanStore
from proxy.storage.memory import MemoryStore
from proxy.storage.redis import RedisStore, connect
from proxy.storage.tiered import TieredStore
from tests.support.bounded import bounded
from tests.support.redis import RedisServer
from tests.support.redis_fleet import RedisCluster

__all__ = ["bounded"]

PREFIX = "ims-test:"
KEEP_S = 4000.0


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A real server for tests that leave it as it is."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """A real cluster for tests that leave it as it is."""
    with RedisCluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture
async def over_cluster(cluster: RedisCluster) -> AsyncIterator[RedisStore]:
    """A store over a real cluster, which is emptied first."""
    cluster.flush()
    store = connect(cluster.url, prefix=PREFIX, keep_s=KEEP_S, timeout_s=5.0)
    yield store
    await store.close()


@pytest.fixture
async def over_fakeredis() -> AsyncIterator[RedisStore]:
    """A store over Redis' behaviour in this process."""
    store = RedisStore(FakeAsyncRedis(server=FakeServer()), prefix=PREFIX, keep_s=KEEP_S)
    yield store
    await store.close()


@pytest.fixture
async def over_redis(server: RedisServer) -> AsyncIterator[RedisStore]:
    """A store over a real server, which is emptied first."""
    store = connect(server.url, prefix=PREFIX, keep_s=KEEP_S, timeout_s=5.0)
    await store.redis.flushall()
    yield store
    await store.close()


@pytest.fixture
async def tiered(over_redis: RedisStore) -> AsyncIterator[TieredStore]:
    """Process memory before a real server."""
    store = TieredStore(
        MemoryStore(1 << 20),
        over_redis,
        near_ttl_s=1.0,
        stale_s=60.0,
        timeout_s=0.5,
        on_failure=lambda _: None,
        loop_clock=LoopClock(),
    )
    store.start()
    yield store
    await store.close()


@pytest.fixture(params=["over_fakeredis", "over_redis"])
def redis_store(request: pytest.FixtureRequest) -> RedisStore:
    """Each store in Redis."""
    store = request.getfixturevalue(request.param)
    assert isinstance(store, RedisStore)
    return store


@pytest.fixture
def redis(redis_store: RedisStore) -> Redis:
    """A client of the Redis behind `redis_store`."""
    return redis_store.redis


@pytest.fixture(params=["memory", "over_fakeredis", "over_redis", "over_cluster", "tiered"])
def store(request: pytest.FixtureRequest) -> SpanStore:
    """Every store."""
    if request.param == "memory":
        return MemoryStore(1 << 20)
    made: SpanStore = request.getfixturevalue(request.param)
    return made
