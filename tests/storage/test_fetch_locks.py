"""Fetch locks: who may fetch, who takes over from a silent holder, and what becomes of a lock that was lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from proxy.core.span import LIST_START
from proxy.storage.fetch_locks import LOCK_MS, SILENT_S
from proxy.storage.redis import RedisStore, connect
from tests.support.redis import RedisServer
from tests.support.spans import KEY, NOW
from tests.support.stores import KEEP_S, PREFIX
from tests.support.waiting import until

WITHIN_S = 30.0
SILENT_MS = int(SILENT_S * 1000)


@pytest.fixture
async def holder(server: RedisServer) -> AsyncIterator[RedisStore]:
    store = connect(server.url, prefix=PREFIX, keep_s=KEEP_S, timeout_s=0.5)
    await store.redis.flushall()
    yield store
    await store.close()


@pytest.fixture
async def waiter(server: RedisServer) -> AsyncIterator[RedisStore]:
    store = connect(server.url, prefix=PREFIX, keep_s=KEEP_S, timeout_s=0.5)
    yield store
    await store.close()


async def expires_in(store: RedisStore, milliseconds: int) -> None:
    """Let the lock expire then, as if it had not been renewed for a while."""
    await store.redis.pexpire(store.names.fetch_lock(KEY, LIST_START), milliseconds)


async def test_lock_of_a_holder_that_renews_it_is_not_taken_over(holder: RedisStore, waiter: RedisStore) -> None:
    assert (await holder.acquire_lock(KEY, LIST_START, now=NOW)).fence
    name = holder.names.fetch_lock(KEY, LIST_START)
    for _ in range(3):
        await expires_in(holder, LOCK_MS - SILENT_MS // 2)

        async def is_renewed() -> bool:
            return await holder.redis.pttl(name) > LOCK_MS - SILENT_MS // 4

        await until(is_renewed)
        assert (await waiter.acquire_lock(KEY, LIST_START, now=NOW)).fence is None


async def test_lock_of_a_silent_holder_is_taken_over_long_before_it_expires(
    holder: RedisStore, waiter: RedisStore
) -> None:
    mine = await holder.acquire_lock(KEY, LIST_START, now=NOW)
    holder.locks.abandon(KEY, LIST_START)  # as if its process stood still
    await expires_in(holder, LOCK_MS - SILENT_MS - 1)
    theirs = await waiter.acquire_lock(KEY, LIST_START, now=NOW)
    assert mine.fence
    assert theirs.fence
    assert theirs.fence > mine.fence


async def test_holder_that_comes_back_gives_nothing_back_that_is_another_s(
    holder: RedisStore, waiter: RedisStore
) -> None:
    mine = await holder.acquire_lock(KEY, LIST_START, now=NOW)
    holder.locks.abandon(KEY, LIST_START)
    await expires_in(holder, LOCK_MS - SILENT_MS - 1)
    theirs = await waiter.acquire_lock(KEY, LIST_START, now=NOW)
    await holder.release_lock(KEY, LIST_START, mine)
    assert await holder.redis.get(holder.names.fetch_lock(KEY, LIST_START)) == str(theirs.fence).encode()


async def test_lost_lock_is_announced(holder: RedisStore) -> None:
    async with holder.redis.pubsub() as listening:
        await listening.subscribe(holder.names.channel)
        await holder.acquire_lock(KEY, LIST_START, now=NOW)
        await holder.redis.delete(holder.names.fetch_lock(KEY, LIST_START))
        async with asyncio.timeout(WITHIN_S):
            while True:
                message = await listening.get_message(timeout=1.0)
                if message and message["type"] == "message":
                    break
    assert message["data"] == holder.names.wake_message(KEY.digest, LIST_START).encode()


async def test_all_locks_are_renewed_by_one_task_that_ends_with_the_last(holder: RedisStore) -> None:
    before = len(asyncio.all_tasks())
    claims = {after: await holder.acquire_lock(KEY, after, now=NOW) for after in ("a", "b", "c")}
    assert len(asyncio.all_tasks()) == before + 1
    for after, claim in claims.items():
        await holder.release_lock(KEY, after, claim)
    await until(lambda: len(asyncio.all_tasks()) == before)
