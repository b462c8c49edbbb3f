"""The number that says whether answers given so far may be given again unasked."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from proxy.core.cache_key import ALL_TAG
from proxy.storage.memory import MemoryStore
from proxy.storage.redis import RedisStore
from proxy.storage.tiered import TieredStore
from tests.storage.test_tiered import a_replica, listens
from tests.support.redis import RedisServer
from tests.support.spans import KEY, NOW, a_span
from tests.support.waiting import until


async def test_reading_and_filling() -> None:
    """It stays as it is while spans are added and read."""
    store = MemoryStore(1 << 20)
    before = store.epoch
    await store.put(KEY, a_span(), keep_s=60.0, now=NOW)
    await store.put(KEY, a_span("d"), keep_s=60.0, now=NOW)
    await store.lookup(KEY, "", 10, now=NOW)
    assert store.epoch == before


async def test_invalidation() -> None:
    """An invalidation changes it, whatever it touches."""
    store = MemoryStore(1 << 20)
    before = store.epoch
    await store.invalidate(["listing:of-somebody-else"], now=NOW)
    assert store.epoch != before


async def test_newer_span() -> None:
    """A span that takes the place of a fresh one changes it; one that replaces a stale one does not."""
    store = MemoryStore(1 << 20)
    await store.put(KEY, a_span(), keep_s=600.0, now=NOW)
    before = store.epoch
    stale_at = NOW + a_span().lifetime_s
    await store.put(KEY, a_span(fetched_at=stale_at), keep_s=600.0, now=stale_at)
    assert store.epoch == before
    await store.put(KEY, replace(a_span(fetched_at=stale_at), ids=("x",)), keep_s=600.0, now=stale_at + 1)
    assert store.epoch != before


async def test_redis_alone(over_fakeredis: RedisStore) -> None:
    """Redis by itself tells nobody of invalidations."""
    assert over_fakeredis.epoch is None


async def test_before_the_channel(tiered: TieredStore) -> None:
    """Without the channel other replicas' invalidations are not heard of."""
    assert tiered.epoch is None


async def test_other_replica(tmp_path: Path) -> None:
    """When another replica's invalidation returns, it is another number here."""
    with RedisServer(tmp_path) as server:
        async with a_replica(server.url) as here, a_replica(server.url) as there:
            await until(lambda: here.epoch is not None)
            before = here.epoch
            await there.invalidate([ALL_TAG], now=NOW)
            assert here.epoch != before


async def test_lost_channel(tmp_path: Path) -> None:
    """A lone replica repeats answers while Redis is gone, but none across its going or its coming back."""
    with RedisServer(tmp_path) as server:
        async with a_replica(server.url) as store:
            before = store.epoch
            server.kill()
            await until(lambda: store.epoch != before)
            during = store.epoch
            assert during is not None
            server.start()
            await until(lambda: store.epoch != during)
            await until(partial(listens, store))
            assert store.epoch is not None


async def test_lost_channel_of_one_among_several(tmp_path: Path) -> None:
    """Where another replica was seen, nothing is repeated while Redis is gone."""
    with RedisServer(tmp_path) as server:
        async with a_replica(server.url) as store, a_replica(server.url) as other:
            await until(lambda: {store.bus.name, other.bus.name} <= store.bus.peers)
            server.kill()
            await until(lambda: store.epoch is None)
            server.start()
            await until(lambda: store.epoch is not None)
