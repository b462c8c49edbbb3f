"""What every ledger does, in memory and in Redis; and what several on one Redis do together."""

from __future__ import annotations

import asyncio
import time

import pytest

from proxy.core.call_context import Priority
from proxy.ratelimit.memory_store import RateLimitStore
from proxy.ratelimit.sliding_window import AdvertisedLimit, Granted, LimitUsage, RateLimit, Wait
from proxy.storage.redis import connect
from tests.support.rate_limit_stores import PREFIX, MakeLedger, shared
from tests.support.redis import RedisServer

LONG = RateLimit(6, 60.0)
WRITE = Priority.WRITE
SHUT_S = 1.0  # a test that asks meanwhile has to come in time


async def taken(ledger: RateLimitStore, count: int, *, scope: str = "s", priority: Priority = WRITE) -> list[str]:
    """Return the leases of as many calls as there are, *count* at the most."""
    verdicts = [await ledger.take(scope, priority) for _ in range(count)]
    return [verdict.lease for verdict in verdicts if isinstance(verdict, Granted)]


def passed_s(began: float) -> float:
    """Return the time since *began*, and a little, for clocks that differ in how they are rounded."""
    return time.monotonic() - began + 0.1


async def test_a_scope_has_its_budget_and_another_its_own(make_ledger: MakeLedger) -> None:
    """Six calls of ten, in each of two scopes; then it says how long to wait."""
    ledger, began = make_ledger(LONG), time.monotonic()
    for scope in ("one", "two"):
        assert len(set(await taken(ledger, 10, scope=scope))) == 6
    verdict = await ledger.take("one", WRITE)
    assert isinstance(verdict, Wait)
    assert 61 - passed_s(began) < verdict.wait_s < 61.1
    assert not verdict.is_cooldown


async def test_a_call_that_ended_still_counts(make_ledger: MakeLedger) -> None:
    """Reporting the end frees nothing before a window has passed, and makes the wait shorter than a lost call's."""
    ledger, began = make_ledger(LONG), time.monotonic()
    for lease in await taken(ledger, 6):
        ledger.report("s", lease)
    verdict = await ledger.take("s", WRITE)
    assert isinstance(verdict, Wait)
    assert 60 - passed_s(began) < verdict.wait_s < 60.1


async def test_the_usage_is_that_of_the_tightest_limit(make_ledger: MakeLedger) -> None:
    """Of two scopes the one with less left, of two limits the tighter one; without a limit there is none."""
    ledger = make_ledger(LONG)
    assert ledger.usage() == LimitUsage(LONG, 0)
    await taken(ledger, 1, scope="one")
    (lease, *_) = await taken(ledger, 2, scope="two")
    assert ledger.usage() == LimitUsage(LONG, 2)
    ledger.report("two", lease, advertised=[AdvertisedLimit("user", RateLimit(3, 60.0))])
    assert ledger.usage() == LimitUsage(RateLimit(3, 60.0), 2)
    await ledger.close()
    free = make_ledger(None)
    await taken(free, 3)
    assert free.usage() is None


async def test_the_share_that_is_left_is_told(make_ledger: MakeLedger) -> None:
    """Half of the budget is left after three of six."""
    ledger = make_ledger(LONG)
    await taken(ledger, 2)
    verdict = await ledger.take("s", WRITE)
    assert isinstance(verdict, Granted)
    assert verdict.left_share == pytest.approx(0.5)


async def test_readahead_leaves_a_third(make_ledger: MakeLedger) -> None:
    """Of ten calls readahead gets seven, revalidation two more, a write the last."""
    ledger = make_ledger(RateLimit(10, 60.0))
    assert len(await taken(ledger, 10, priority=Priority.PREFETCH)) == 7
    assert len(await taken(ledger, 10, priority=Priority.REVALIDATION)) == 2
    assert len(await taken(ledger, 10)) == 1


async def test_the_gate_closes_for_all_and_opens_for_a_probe(make_ledger: MakeLedger) -> None:
    """A throttled call keeps others away; the first after that is alone until it has ended."""
    ledger = make_ledger(None)
    (lease,) = await taken(ledger, 1)
    ledger.report("s", lease, cooldown_s=SHUT_S)
    verdict = await ledger.take("s", WRITE)
    assert isinstance(verdict, Wait)
    assert verdict.is_cooldown
    assert 0 < verdict.wait_s <= SHUT_S
    assert await taken(ledger, 1, scope="another")
    await asyncio.sleep(verdict.wait_s + 0.01)
    (probe,) = await taken(ledger, 3)
    ledger.report("s", probe)
    assert len(await taken(ledger, 3)) == 3


async def test_a_limit_that_the_upstream_tells_holds_and_is_shown(make_ledger: MakeLedger) -> None:
    """Without a budget of ours that of the upstream counts, with the calls of others in it."""
    ledger = make_ledger(None)
    (lease,) = await taken(ledger, 1)
    ledger.report("s", lease, advertised=[AdvertisedLimit("user", RateLimit(10, 60.0), remaining=4)])
    assert len(await taken(ledger, 10)) == 4
    assert ledger.advertised_limits("s") == {"user": RateLimit(10, 60.0)}


@pytest.mark.parametrize("replicas", [2, 4])
async def test_replicas_share_one_budget(server: RedisServer, replicas: int) -> None:
    """However many take at once, all of them together get what one would; and all hear of the gate."""
    stores = [connect(server.url, prefix=PREFIX, keep_s=60, timeout_s=5.0) for _ in range(replicas)]
    await stores[0].redis.flushall()
    ledgers = [shared(store, LONG, f"r{number}") for number, store in enumerate(stores)]
    leases = await asyncio.gather(*(taken(ledger, 5) for ledger in ledgers))
    assert sum(map(len, leases)) == 6
    (lease,) = await taken(ledgers[0], 1, scope="gate")
    ledgers[0].report("gate", lease, advertised=[AdvertisedLimit("user", RateLimit(9, 60.0))], cooldown_s=30.0)
    await ledgers[0].close()
    verdict = await ledgers[1].take("gate", WRITE)
    assert isinstance(verdict, Wait)
    assert verdict.is_cooldown
    assert ledgers[1].advertised_limits("gate") == {"user": RateLimit(9, 60.0)}
    for store in stores:
        await store.close()


async def test_a_redis_whose_clock_was_set_back_locks_nobody_out(server: RedisServer) -> None:
    """What was logged an hour ahead counts for one window, as if the clock had stood still."""
    store = connect(server.url, prefix=PREFIX, keep_s=60, timeout_s=5.0)
    await store.redis.flushall()
    ledger, began = shared(store, LONG), time.monotonic()
    await taken(ledger, 6)
    calls, gate = store.names.budget("s")
    hour = 3600 * 1_000_000
    for lease in await store.redis.zrange(calls, 0, -1):
        assert isinstance(lease, bytes)
        await store.redis.zincrby(calls, hour, lease)
    await store.redis.hincrby(gate, "at", hour)
    verdict = await ledger.take("s", WRITE)
    assert isinstance(verdict, Wait)
    assert 61 - passed_s(began) < verdict.wait_s < 61.1
    await store.close()
