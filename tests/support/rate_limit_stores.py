"""Ledgers, each over what it keeps its books in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import pytest
from fakeredis import FakeAsyncRedis, FakeServer

from proxy.errors import StoreUnavailableError
from proxy.ratelimit.memory_store import MemoryRateLimitStore, RateLimitStore
from proxy.ratelimit.redis_store import RedisRateLimitStore
from proxy.ratelimit.sliding_window import RateLimit
from proxy.storage.redis import RedisStore, connect
from tests.support.redis import RedisServer
from tests.support.redis_fleet import RedisCluster

Result = TypeVar("Result")

PREFIX = "ims-test:"
HOLD_S = 1.0


class Unguarded:
    """Makes each call as it comes: a store that is away is asked again whenever the test says so."""

    async def call(
        self, operation: str, command: Callable[[], Coroutine[Any, Any, Result]], *, timeout_s: float | None = None
    ) -> Result:
        """Return what *command* returns; `StoreUnavailableError` where there is no answer for a second."""
        try:
            async with asyncio.timeout(timeout_s or 1.0):
                return await command()
        except TimeoutError as error:
            raise StoreUnavailableError("no answer in time") from error


MakeLedger = Callable[[RateLimit | None], RateLimitStore]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A real server for tests that leave it running."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """A real cluster for tests that leave it running."""
    with RedisCluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


def shared(
    store: RedisStore, allowance: RateLimit | None, name: str = "a", peers: frozenset[str] = frozenset()
) -> RedisRateLimitStore:
    """Return the ledger of the replica *name* among its *peers*."""
    return RedisRateLimitStore(
        store,
        MemoryRateLimitStore(allowance, hold_s=HOLD_S, clock=time.monotonic),
        allowance,
        name=name,
        peers=lambda: peers | {name},
        in_touch=lambda: True,
        notice_s=0.0,
        hold_s=HOLD_S,
        breaker=Unguarded(),
        timeout_s=5.0,
    )


@pytest.fixture(params=["memory", "fakeredis", "redis", "cluster"])
async def make_ledger(request: pytest.FixtureRequest) -> AsyncIterator[MakeLedger]:
    """Make a ledger of each kind; those in Redis begin with an empty one."""
    async with AsyncExitStack() as stack:
        store = None
        if request.param == "fakeredis":
            store = RedisStore(FakeAsyncRedis(server=FakeServer()), prefix=PREFIX, keep_s=60)
        elif request.param == "redis":
            server: RedisServer = request.getfixturevalue("server")
            store = connect(server.url, prefix=PREFIX, keep_s=60, timeout_s=5.0)
            await store.redis.flushall()
        elif request.param == "cluster":
            cluster: RedisCluster = request.getfixturevalue("cluster")
            cluster.flush()
            store = connect(cluster.url, prefix=PREFIX, keep_s=60, timeout_s=5.0)
        if store is not None:
            stack.push_async_callback(store.close)

        def made(allowance: RateLimit | None) -> RateLimitStore:
            if store is None:
                return MemoryRateLimitStore(allowance, hold_s=HOLD_S, clock=time.monotonic)
            ledger = shared(store, allowance)
            stack.push_async_callback(ledger.close)
            return ledger

        yield made
