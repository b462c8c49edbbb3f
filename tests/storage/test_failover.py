"""Replicas on a cluster, and on what Sentinel leads them to: news, claims, and another server in the leader's place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from proxy.core.cache_key import ALL_TAG
from proxy.core.span import LIST_START
from proxy.errors import StoreUnavailableError
from proxy.storage.base import SpanStore
from proxy.storage.redis_scripts import KeyNames
from proxy.storage.tiered import TieredStore
from tests.storage.test_tiered import NEAR_TTL_S, WITHIN_S, a_replica, answers, listens
from tests.support.redis_fleet import RedisCluster, SentinelService
from tests.support.spans import KEY, NOW, a_span, keep
from tests.support.stores import PREFIX
from tests.support.waiting import until

pytestmark = pytest.mark.integration

LATER = NOW + 1


@dataclass(frozen=True, slots=True)
class Fleet:
    """Redis servers: where replicas find them, and what kills the one that keeps what all listings have in common."""

    url: str
    kill: Callable[[], None]


@pytest.fixture(params=["cluster", "sentinel"])
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    """Servers of the test's own, each with a copy that takes its place."""
    if request.param == "cluster":
        with RedisCluster(tmp_path, copies=True) as cluster:
            yield Fleet(cluster.url, cluster.keeper(KeyNames(PREFIX).generation(ALL_TAG)).kill)
    else:
        with SentinelService(tmp_path) as service:
            yield Fleet(service.url, service.leader.kill)


@pytest.fixture
async def two(fleet: Fleet) -> AsyncIterator[tuple[TieredStore, TieredStore]]:
    """Two replicas whose channels are up."""
    async with AsyncExitStack() as stack:
        one, other = [await stack.enter_async_context(a_replica(fleet.url)) for _ in range(2)]
        yield one, other


async def is_current(store: SpanStore, *, now: float = LATER) -> bool:
    """Return whether *store* has a span of the listing that no invalidation touched."""
    found = await store.lookup(KEY, LIST_START, 1, now=now)
    return any(piece.span.generation == found.state.generation for piece in found.slices)


async def passes_on(one: SpanStore, other: SpanStore, clock: Iterator[float]) -> bool:
    """Return whether *other* has what is kept through *one*.

    Where one can't reach Redis it keeps a span in memory alone, and answers from there for a moment: time has to pass.
    """
    now = next(clock)
    with suppress(StoreUnavailableError):
        await keep(one, a_span(fetched_at=now), now=now)
    return await is_current(other, now=now)


async def share_a_span(one: SpanStore, other: SpanStore, *, now: float = NOW) -> None:
    """Return once *other* has what was kept through *one*."""
    await until(partial(passes_on, one, other, count(now, 2 * NEAR_TTL_S)))


async def life(store: TieredStore, proposed: bytes) -> bytes:
    """Return which life of the budgets Redis keeps, *proposed* if none."""
    order = b'{"replica":"a","ended":[],"told":[],"close":-1,"configured":[],"take":[],"calls":[],"dropped":[]}'
    found: list[bytes] = []

    async def told() -> bool:
        with suppress(StoreUnavailableError):  # a cluster's nodes don't learn in one moment that it is whole again
            kept, _ = await store.far.run_rate_limit_script("a", order, store_run=proposed)
            found.append(kept)
        return bool(found)

    await until(told)
    return found[0]


async def test_a_write_through_one_replica_is_heard_by_the_other(two: tuple[TieredStore, TieredStore]) -> None:
    """When an invalidation returns, no other replica uses what it had, nor what it finds in Redis."""
    one, other = two
    await share_a_span(one, other)
    async with asyncio.timeout(WITHIN_S):
        await one.invalidate([ALL_TAG], now=NOW)
    assert not await is_current(other)
    assert not await is_current(one)


async def test_who_waits_for_a_claim_is_woken(two: tuple[TieredStore, TieredStore]) -> None:
    """One replica's claim keeps the other from fetching, and its end wakes it long before the claim would lapse."""
    one, other = two
    claim = await one.acquire_lock(KEY, LIST_START, now=NOW)
    assert claim.fence
    assert (await other.acquire_lock(KEY, LIST_START, now=NOW)).fence is None
    waiting = asyncio.create_task(other.wait_for_release(KEY, LIST_START, timeout_s=2 * WITHIN_S))
    await asyncio.sleep(0)
    await one.release_lock(KEY, LIST_START, claim)
    async with asyncio.timeout(WITHIN_S):
        await waiting
    assert ((await other.acquire_lock(KEY, LIST_START, now=NOW)).fence or 0) > claim.fence


async def test_another_server_takes_the_place_of_one_that_died(
    two: tuple[TieredStore, TieredStore], fleet: Fleet
) -> None:
    """Nothing fails meanwhile; then news are heard again, and what was stored or logged before is not believed."""
    one, other = two
    await share_a_span(one, other)
    assert await life(one, b"1") == b"1"
    fleet.kill()
    await one.invalidate([ALL_TAG], now=NOW)
    for store in two:
        assert not await is_current(store)
    for store in two:
        await until(partial(answers, store))
        await until(partial(listens, store))
    assert not await is_current(other)
    assert await life(one, b"2") == b"2", "what the one that died counted is not believed"
    await share_a_span(one, other, now=LATER)  # either may have yet to find the new server
    async with asyncio.timeout(WITHIN_S):
        await other.invalidate([ALL_TAG], now=LATER)
    assert not await is_current(one)
