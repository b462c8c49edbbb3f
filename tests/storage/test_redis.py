"""Spans in Redis: who makes them expire, what damage does, what replicas share."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis

from proxy.core.cache_key import ALL_TAG
from proxy.core.span import LIST_START
from proxy.storage import serialization as codec
from proxy.storage.redis import RedisStore
from proxy.storage.redis_pipeline import OFF_LOOP_BYTES
from proxy.storage.redis_scripts import UNUSED_MS, prefix_for_upstream
from tests.support.spans import BETA, KEY, MODEL, NOW, a_span, chained, keep
from tests.support.stores import KEEP_S, PREFIX

SPAN = PREFIX.encode() + b"{" + KEY.digest.encode() + b"}:s:"
INDEX = PREFIX.encode() + b"{" + KEY.digest.encode() + b"}:i"


@pytest.fixture
def replica(redis_store: RedisStore) -> RedisStore:
    """Another replica's store in the same Redis."""
    return RedisStore(redis_store.redis, prefix=PREFIX, keep_s=KEEP_S)


async def every_key(redis: Redis) -> list[bytes]:
    """Return the names of all keys."""
    return [name if isinstance(name, bytes) else name.encode() for name in await redis.keys("*")]


async def test_every_key_expires_by_itself(redis_store: RedisStore, redis: Redis) -> None:
    """The span by its time, everything else in bounds; only the shared secret stays."""
    await keep(redis_store, a_span(), keep_s=600.0)
    await redis_store.release_lock(KEY, LIST_START, await redis_store.acquire_lock(KEY, LIST_START, now=NOW))
    await redis_store.invalidate(KEY.tags, pending_s=30.0, now=NOW)
    await redis_store.shared_secret(b"s" * 32)
    left_ms = {name: await redis.pttl(name) for name in await every_key(redis)}
    assert 595_000 < left_ms.pop(SPAN) <= 600_000
    assert left_ms.pop(INDEX) > 595_000
    assert left_ms.pop(PREFIX.encode() + b"{lists}:secret") == -1
    assert left_ms
    assert all(0 < left <= (KEEP_S + 25 * 3600) * 1000 for left in left_ms.values())


async def test_what_nothing_was_kept_under_is_soon_gone(redis_store: RedisStore, redis: Redis) -> None:
    """A claim draws generations and a fence for as long as a fetch may take, and no longer; the next one too."""
    for _ in range(2):
        await redis_store.release_lock(KEY, LIST_START, await redis_store.acquire_lock(KEY, LIST_START, now=NOW))
        left_ms = [await redis.pttl(name) for name in await every_key(redis)]
        assert len(left_ms) == len(KEY.tags) + 1
        assert all(UNUSED_MS - 60_000 < left <= UNUSED_MS for left in left_ms)
        for name in await every_key(redis):
            await redis.pexpire(name, 1_000)


async def test_what_something_was_kept_under_lives_on_for_as_long(redis_store: RedisStore, redis: Redis) -> None:
    """Generations, fences and the list of listings outlive the span, and a span that is kept for less shortens none."""
    for keep_s in (2000.0, 6.0):
        claim = await redis_store.acquire_lock(KEY, LIST_START, now=NOW)
        span = replace(a_span(), generation=claim.state.generation)
        await redis_store.put(KEY, span, keep_s=keep_s, now=NOW, fence=claim.fence or 0)
        await redis_store.release_lock(KEY, LIST_START, claim)
        names = [name for name in await every_key(redis) if not name.startswith((SPAN, INDEX))]
        left_ms = [await redis.pttl(name) for name in names]
        assert len(left_ms) == 2 * len(KEY.tags) + 1
        assert all(2_000_000 < left <= 2_000_000 + UNUSED_MS for left in left_ms)


async def test_an_invalidation_is_remembered_for_longer_than_anything_is_kept(
    redis_store: RedisStore, redis: Redis
) -> None:
    """Neither a claim nor a put makes it live for less."""
    await redis_store.invalidate(KEY.tags, now=NOW)
    await redis_store.release_lock(KEY, LIST_START, await redis_store.acquire_lock(KEY, LIST_START, now=NOW))
    await keep(redis_store, a_span(), keep_s=6.0)
    for scope in KEY.tags:
        assert await redis.pttl(redis_store.names.generation(scope)) > (KEEP_S + 23 * 3600) * 1000


async def test_a_span_whose_generation_is_gone_is_of_no_use(redis_store: RedisStore, redis: Redis) -> None:
    """Whether it lapsed during the fetch or was evicted, none comes in its place that the span has."""
    claim = await redis_store.acquire_lock(KEY, LIST_START, now=NOW)
    await redis.delete(*[redis_store.names.generation(scope) for scope in KEY.tags])
    await redis_store.put(KEY, replace(a_span(), generation=claim.state.generation), keep_s=60.0, now=NOW, fence=1)
    for _ in range(2):
        found = await redis_store.lookup(KEY, LIST_START, 4, now=NOW)
        assert [piece.span.generation == found.state.generation for piece in found.slices] == [False]
        await redis_store.acquire_lock(KEY, "d", now=NOW)


async def test_a_claim_is_later_than_the_span_that_is_there_though_the_count_was_lost(
    redis_store: RedisStore, redis: Redis
) -> None:
    """Where Redis evicted the count of claims, the next put brings it back, so that later spans are kept."""
    await redis_store.put(KEY, a_span(LIST_START, 5), keep_s=60.0, now=NOW, fence=7)
    claim = await redis_store.acquire_lock(KEY, "d", now=NOW)
    assert claim.fence == 8
    await redis.set(redis_store.names.fetch_lock_counter(KEY), "9")
    await redis_store.put(KEY, a_span("d", 5), keep_s=60.0, now=NOW, fence=8)
    assert (await redis_store.acquire_lock(KEY, "e", now=NOW)).fence == 10


async def test_an_index_outlives_every_span_it_leads_to(redis_store: RedisStore, redis: Redis) -> None:
    """A span that is kept for less time does not shorten the index."""
    await keep(redis_store, a_span(LIST_START, 3), keep_s=600.0)
    await keep(redis_store, a_span("c", 3), keep_s=6.0)
    assert await redis.pttl(INDEX) > 590_000


async def test_a_span_that_expired_is_a_miss(redis_store: RedisStore, redis: Redis) -> None:
    """Where Redis let it go, the index leads nowhere and nothing fails."""
    await keep(redis_store, a_span())
    await redis.pexpire(SPAN, 0)
    assert await chained(redis_store) == []
    assert await chained(redis_store, "b") == []
    assert await redis_store.find_image(KEY, "b", now=NOW) is None


async def test_no_secret_and_no_filter_stands_in_a_key(redis_store: RedisStore, redis: Redis) -> None:
    """Keys hold digests, markers and nothing of a query."""
    key = replace(KEY, query="name=payroll&owner=0123")
    await keep(redis_store, a_span(), key=key)
    await redis_store.invalidate(key.tags, now=NOW)
    names = b" ".join(await every_key(redis))
    assert names
    assert b"payroll" not in names
    assert b"owner" not in names


async def test_one_listing_lives_on_one_node(redis_store: RedisStore, redis: Redis) -> None:
    """Redis Cluster hashes what stands in braces: the listing's digest, in every key of the listing."""
    await keep(redis_store, replace(a_span(), marker="{x}"))
    of_the_listing = [name for name in await every_key(redis) if KEY.digest.encode() in name]
    assert len(of_the_listing) >= 2
    assert all(name.partition(b"{")[2].partition(b"}")[0] == KEY.digest.encode() for name in of_the_listing)


async def kept_value(redis: Redis) -> bytes:
    """Return what stands under the span's key."""
    value = await redis.get(SPAN)
    assert isinstance(value, bytes)
    return value


async def altered(redis: Redis) -> None:
    """Change one byte of the images."""
    value = bytearray(await kept_value(redis))
    value[-3] ^= 1
    await redis.set(SPAN, bytes(value))


async def moved(redis: Redis) -> None:
    """Put another listing's span in its place."""
    other = SPAN.replace(KEY.digest.encode(), replace(KEY, partition=BETA).digest.encode())
    await redis.rename(other, SPAN)


async def moved_within(redis: Redis) -> None:
    """Put the span after another marker of the same listing in its place."""
    await redis.rename(SPAN + b"d", SPAN)


async def of_another_version(redis: Redis) -> None:
    """Write what another release would."""
    await redis.set(SPAN, b"IMS9" + (await kept_value(redis))[4:])


async def cut_short(redis: Redis) -> None:
    """Keep only the first part."""
    await redis.set(SPAN, (await kept_value(redis))[:100])


async def emptied(redis: Redis) -> None:
    """Keep nothing of it."""
    await redis.set(SPAN, b"")


async def of_another_type(redis: Redis) -> None:
    """Put a list where the span was."""
    await redis.delete(SPAN)
    await redis.rpush(SPAN, "x")


async def with_foreign_numbers(redis: Redis) -> None:
    """Write something else into the digits that the scripts read."""
    value = await kept_value(redis)
    await redis.set(SPAN, value[:20] + b"x" * 77 + value[97:])


DAMAGES = [
    altered,
    moved,
    moved_within,
    of_another_version,
    cut_short,
    emptied,
    of_another_type,
    with_foreign_numbers,
]
Damage = Callable[[Redis], Awaitable[None]]


@pytest.mark.parametrize("damage", DAMAGES, ids=[damage.__name__ for damage in DAMAGES])
async def test_a_damaged_span_is_a_miss(redis_store: RedisStore, redis: Redis, damage: Damage) -> None:
    """It is not found from its marker nor from inside, and a new one takes its place."""
    await keep(redis_store, a_span())
    await keep(redis_store, a_span("d", 4))
    await keep(redis_store, a_span(), key=replace(KEY, partition=BETA))
    await damage(redis)
    assert await chained(redis_store) == []
    assert await chained(redis_store, "b") == []
    assert await redis_store.find_image(KEY, "b", now=NOW) is None
    await keep(redis_store, a_span())
    assert (await chained(redis_store))[0] == (LIST_START, 0)


FETCHED_AT = b"%d" % (NOW * 1000)
HOMES = [
    *(b"", b"x", b"x:", b":", b"2:", b"2:elsewhere", b"\xff:\xff", b"2:0:0:", b"2:99999999999999999999:0:"),
    *(b"%b:%b:0:" % (position, FETCHED_AT) for position in (b"1", b"3", b"0", b"99", b"-1", b"1.5", b"")),
    *(b"2:%b:%b" % (FETCHED_AT, rest) for rest in (b"", b"x", b"9:elsewhere", b"999999999:", b"-1:", b"0", b"1:")),
]


@pytest.mark.parametrize("home", HOMES)
async def test_a_damaged_index_entry_is_a_miss(redis_store: RedisStore, redis: Redis, home: bytes) -> None:
    """Whatever stands for an image, no wrong position and no error comes of it."""
    await keep(redis_store, a_span())
    await redis.hset(INDEX, "b", home)
    held = await redis_store.find_image(KEY, "b", now=NOW)
    assert held is None or (held.span.marker, held.start) == (LIST_START, 2)
    assert await chained(redis_store, "b") in ([], [(LIST_START, 2)])
    assert await chained(redis_store) == [(LIST_START, 0)]


async def test_an_index_of_another_type_is_a_miss(redis_store: RedisStore, redis: Redis) -> None:
    """A string where the index was loses the images' places, not the spans."""
    await keep(redis_store, a_span())
    await redis.set(INDEX, "x")
    assert await chained(redis_store) == [(LIST_START, 0)]
    assert await chained(redis_store, "b") == []
    assert await redis_store.find_image(KEY, "b", now=NOW) is None
    await keep(redis_store, a_span("d", 4))
    assert await chained(redis_store, "e") == [("d", 1)]


@pytest.mark.parametrize("foreign", [b"", b"soon", b"\xff\xfe", b"nan"])
async def test_foreign_values_of_the_state_do_no_harm(redis_store: RedisStore, redis: Redis, foreign: bytes) -> None:
    """A generation or a time that is none of ours invalidates or settles, and lists are still found and kept."""
    names = redis_store.names
    await redis.set(names.pending_changes, foreign)
    await redis.set(names.generation(ALL_TAG), foreign)
    await keep(redis_store, a_span())
    assert await chained(redis_store) == [(LIST_START, 0)]


async def test_keys_of_another_type_do_no_harm(redis_store: RedisStore, redis: Redis) -> None:
    """Strings where sets and lists where strings should be don't keep a span from being kept and found."""
    names = redis_store.names
    for scope in KEY.tags:
        await redis.set(names.listings(scope), "x")
        await redis.rpush(names.generation(scope), "x")
    await redis.rpush(names.pending_changes, "x")
    await keep(redis_store, a_span())
    assert await chained(redis_store) == [(LIST_START, 0)]


async def test_a_short_or_foreign_secret_is_not_taken_over(redis_store: RedisStore, redis: Redis) -> None:
    """What could be guessed is no secret."""
    await redis.set(redis_store.names.secret, "short")
    assert await redis_store.shared_secret(b"c" * 32) == b"c" * 32


async def test_a_lost_secret_is_put_back(redis_store: RedisStore, replica: RedisStore, redis: Redis) -> None:
    """Who starts after Redis lost everything works with the secret of those who still run."""
    secret = await redis_store.shared_secret(b"1" * 32)
    await redis.delete(redis_store.names.secret)
    await redis_store.restore_secret()
    assert await replica.shared_secret(b"2" * 32) == secret


async def test_a_secret_that_is_shared_no_more_is_logged(
    redis_store: RedisStore, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """Where another is there by now, it stays, and operators are told; who never asked for one has nothing to say."""
    await redis_store.restore_secret()
    assert await redis.get(redis_store.names.secret) is None
    await redis_store.shared_secret(b"1" * 32)
    await redis_store.restore_secret()
    assert not caplog.records
    await redis.set(redis_store.names.secret, b"2" * 32)
    await redis_store.restore_secret()
    assert [each.getMessage() for each in caplog.records] == ["secret_not_shared"]
    assert await redis.get(redis_store.names.secret) == b"2" * 32


async def test_replicas_share_spans_generations_and_the_secret(redis_store: RedisStore, replica: RedisStore) -> None:
    """What one puts or invalidates, the other sees at once."""
    await keep(redis_store, a_span())
    found = await replica.lookup(KEY, LIST_START, 4, now=NOW)
    assert [piece.span.ids for piece in found.slices] == [MODEL.rows[:4]]
    await replica.invalidate([ALL_TAG], now=NOW)
    assert (await redis_store.lookup(KEY, LIST_START, 4, now=NOW)).state != found.state
    assert await redis_store.shared_secret(b"1" * 32) == await replica.shared_secret(b"2" * 32) == b"1" * 32


async def test_one_replica_fetches_at_a_time(redis_store: RedisStore, replica: RedisStore) -> None:
    """A claim is refused while another replica holds it, per marker and listing."""
    mine = await redis_store.acquire_lock(KEY, LIST_START, now=NOW)
    assert mine.fence
    assert (await replica.acquire_lock(KEY, LIST_START, now=NOW)).fence is None
    for key, after in ((KEY, "d"), (replace(KEY, query=""), LIST_START)):
        claim = await replica.acquire_lock(key, after, now=NOW)
        assert claim.fence
        await replica.release_lock(key, after, claim)
    await redis_store.release_lock(KEY, LIST_START, mine)
    theirs = await replica.acquire_lock(KEY, LIST_START, now=NOW)
    assert theirs.fence
    await replica.release_lock(KEY, LIST_START, theirs)


async def test_a_claim_that_was_lost_gives_nothing_back(redis_store: RedisStore, replica: RedisStore) -> None:
    """Who comes back too late does not free the claim of the one that followed."""
    mine = await redis_store.acquire_lock(KEY, LIST_START, now=NOW)
    await redis_store.redis.delete(redis_store.names.fetch_lock(KEY, LIST_START))
    theirs = await replica.acquire_lock(KEY, LIST_START, now=NOW)
    await redis_store.release_lock(KEY, LIST_START, mine)
    assert (await redis_store.acquire_lock(KEY, LIST_START, now=NOW)).fence is None
    await replica.release_lock(KEY, LIST_START, theirs)


async def test_a_late_put_does_not_replace_a_later_claim_s(redis_store: RedisStore) -> None:
    """A span fetched under a lower fence is dropped where one of a higher is there."""
    await redis_store.put(KEY, a_span(LIST_START, 5), keep_s=60.0, now=NOW, fence=7)
    await redis_store.put(KEY, a_span(LIST_START, 2), keep_s=60.0, now=NOW, fence=6)
    assert [piece.count for piece in (await redis_store.lookup(KEY, LIST_START, 9, now=NOW)).slices] == [5]
    await redis_store.put(KEY, a_span(LIST_START, 3), keep_s=60.0, now=NOW, fence=8)
    assert [piece.count for piece in (await redis_store.lookup(KEY, LIST_START, 9, now=NOW)).slices] == [3]


async def test_who_waits_for_a_claim_waits_no_longer_than_it_may(redis_store: RedisStore, replica: RedisStore) -> None:
    """A claim that nobody holds is settled at once, and one that is held after the time given."""
    async with asyncio.timeout(30):
        await replica.wait_for_release(KEY, LIST_START, timeout_s=60.0)
        claim = await redis_store.acquire_lock(KEY, LIST_START, now=NOW)
        await replica.wait_for_release(KEY, LIST_START, timeout_s=0.01)
    await redis_store.release_lock(KEY, LIST_START, claim)


@pytest.mark.parametrize("origin", ["https://ims.example", "https://ims.example:443", "https://IMS.example/"])
def test_an_upstream_is_known_however_it_is_spelt(origin: str) -> None:
    """Case and a default port make no other upstream; scheme, host and port do."""
    same = prefix_for_upstream(PREFIX, "https://ims.example")
    assert same.startswith(PREFIX)
    assert prefix_for_upstream(PREFIX, origin) == same
    for other in ("http://ims.example", "https://ims.example:8443", "https://ims2.example", "http://ims.example:443"):
        assert prefix_for_upstream(PREFIX, other) != same


async def test_large_span_is_sealed_in_a_thread(redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large one must not hold the loop, a small one is sealed sooner than a thread begins; both come back whole."""
    threads: list[threading.Thread] = []
    encode = codec.encode

    def noting(*words: Any, **named: Any) -> bytes:
        threads.append(threading.current_thread())
        return encode(*words, **named)

    monkeypatch.setattr(codec, "encode", noting)
    small = a_span()
    large = replace(small, body=small.body + b" " * OFF_LOOP_BYTES)
    for span in (small, large):
        await keep(redis_store, span)
        (piece,) = (await redis_store.lookup(KEY, LIST_START, 4, now=NOW)).slices
        assert (piece.span.body, piece.span.ids) == (span.body, span.ids)
    assert [each is threading.main_thread() for each in threads] == [True, False]
