"""The invalidation bus among hostile replies, missing rights and lost messages: law 8 holds, and the bus comes back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from proxy.core.cache_key import ALL_TAG
from proxy.core.span import LIST_START
from proxy.storage.tiered import TieredStore
from tests.storage.test_tiered import a_replica
from tests.support.processes import LOOPBACK
from tests.support.redis import RedisServer
from tests.support.relay import Relay
from tests.support.spans import KEY, NOW, a_span, keep
from tests.support.waiting import until

WITHIN_S = 30.0
SUBSCRIBED = b"SUBSCRIBE"
LATER = NOW + 10  # when memory that may only be used for a moment after it was fetched is no longer used


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server whose users and contents the test may change."""
    with RedisServer(tmp_path) as running:
        yield running


@asynccontextmanager
async def two_replicas(server: RedisServer, way: Relay) -> AsyncIterator[tuple[TieredStore, TieredStore]]:
    """Give a writer, and a reader that reaches Redis by *way*; each has seen the other."""
    async with a_replica(server.url) as writer, a_replica(f"redis://{LOOPBACK}:{way.port}/0") as reader:
        await until(lambda: {writer.bus.name, reader.bus.name} <= (writer.bus.peers & reader.bus.peers))
        yield writer, reader


async def has_current_span(store: TieredStore) -> bool:
    """Return whether *store* would answer from the span that was kept before the write."""
    found = await store.lookup(KEY, LIST_START, 4, now=LATER)
    return any(piece.span.generation == found.state.generation for piece in found.slices)


PONGS = [
    (b"pong", b"pone"),
    (b"*2\r\n$4\r\npong", b"*1\r\n$4\r\npong"),
    (b"*2\r\n$4\r\npong", b"*0\r\n$4\r\npong"),
    (b"*2\r\n$4\r\npong", b"*3\r\n$4\r\npong"),
    (b"$4\r\npong", b"$5\r\npong"),
    (b"$4\r\npong", b"$3\r\npong"),
    (b"$4\r\npong", b"$-1\r\n"),
    (b"$4\r\npong", b":4\r\n"),
    (b"pong", b"p\xffng"),
    (b"*2\r\n$4\r\npong", b"-ERR no\r\n$4\r\npong"),
]
MESSAGES = [
    (b"message", b"massage"),
    (b"message", b"m\xffssage"),
    (b"*3\r\n$7\r\nmessage", b"*2\r\n$7\r\nmessage"),
    (b"*3\r\n$7\r\nmessage", b"*1\r\n$7\r\nmessage"),
    (b"*3\r\n$7\r\nmessage", b"*4\r\n$7\r\nmessage"),
    (b"i:", b"j:"),
    (b"i:", b"\xff:"),
    (b"scopes", b"scopez"),
    (b'"scopes":["', b'"scopes":["x'),
    (b'"unsettled_until":0', b'"unsettled_until":9'),
    (b"\r\n$", b"\r\n%"),
]
CONFIRMATIONS = [
    (b"subscribe", b"subscribx"),
    (b"*3\r\n$9\r\nsubscribe", b"*1\r\n$9\r\nsubscribe"),
    (b":1\r\n", b":x\r\n"),
]


@pytest.mark.parametrize(("old", "new"), PONGS)
async def test_odd_reply_to_a_ping_ends_one_session_and_hides_no_write(
    own_server: RedisServer, old: bytes, new: bytes
) -> None:
    async with Relay(own_server.port) as way, two_replicas(own_server, way) as (writer, reader):
        way.alter_once(old, new, on=SUBSCRIBED)
        async with asyncio.timeout(WITHIN_S):
            await way.altered.wait()
        await keep(reader, a_span())
        await writer.invalidate([ALL_TAG], now=NOW)
        assert not await has_current_span(reader)
        await until(lambda: reader.bus_up, within_s=WITHIN_S)
        await keep(reader, a_span(fetched_at=NOW + 1))
        await writer.invalidate([ALL_TAG], now=NOW)
        assert not await has_current_span(reader)


@pytest.mark.parametrize(("old", "new"), MESSAGES)
async def test_altered_invalidation_hides_no_write(own_server: RedisServer, old: bytes, new: bytes) -> None:
    async with Relay(own_server.port) as way, two_replicas(own_server, way) as (writer, reader):
        await keep(reader, a_span())
        assert await has_current_span(reader)
        way.alter_once(old, new, on=SUBSCRIBED)
        await writer.invalidate([ALL_TAG], now=NOW)
        assert way.altered.is_set()
        assert not await has_current_span(reader)
        await until(lambda: reader.bus_up, within_s=WITHIN_S)
        assert not await has_current_span(reader)


@pytest.mark.parametrize(("old", "new"), CONFIRMATIONS)
async def test_odd_confirmation_of_a_subscription_keeps_no_bus_down(
    own_server: RedisServer, old: bytes, new: bytes
) -> None:
    async with Relay(own_server.port) as way, two_replicas(own_server, way) as (writer, reader):
        way.alter_once(old, new, on=SUBSCRIBED)
        await writer.far.redis.client_kill_filter(_type="pubsub")
        async with asyncio.timeout(WITHIN_S):
            await way.altered.wait()
        await until(lambda: reader.bus_up, within_s=WITHIN_S)
        await keep(reader, a_span())
        await writer.invalidate([ALL_TAG], now=NOW)
        assert not await has_current_span(reader)


async def test_end_of_a_session_is_logged_with_its_cause(
    own_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with Relay(own_server.port) as way, two_replicas(own_server, way) as (_, reader):
        caplog.set_level(logging.INFO, logger="ims_proxy")
        way.alter_once(*PONGS[1], on=SUBSCRIBED)
        async with asyncio.timeout(WITHIN_S):
            await way.altered.wait()
        await until(lambda: "invalidation_bus_up" in [record.getMessage() for record in caplog.records])
        down = next(record for record in caplog.records if record.getMessage() == "invalidation_bus_down")
        assert down.__dict__["event_fields"]["reason"]
        assert reader.bus_up


async def test_lost_invalidation_is_noticed_by_its_number(own_server: RedisServer) -> None:
    """A message that never arrives, on a connection that goes on: the next heartbeat shows that there was one."""
    async with a_replica(own_server.url) as writer, a_replica(own_server.url) as reader:
        await until(lambda: {writer.bus.name, reader.bus.name} <= writer.bus.peers)
        await keep(reader, a_span())
        epoch = reader.epoch
        await writer.far.invalidate([ALL_TAG], now=NOW)
        await writer.far.redis.incr(writer.far.names.invalidation_log)
        await until(lambda: reader.epoch != epoch)
        assert not await has_current_span(reader)


def without_channels(server: RedisServer) -> str:
    """Return the URL of a user as Redis 7 makes it where nobody thinks of channels."""
    return f"redis://mute:not-a-real-password@{LOOPBACK}:{server.port}/0"


async def add_user_without_channels(store: TieredStore) -> None:
    await store.far.redis.execute_command(  # type: ignore[no-untyped-call]
        "ACL", "SETUSER", "mute", "on", ">not-a-real-password", "resetchannels", "~*", "+@all"
    )


async def test_write_through_a_replica_that_may_not_publish_is_seen_by_the_others(own_server: RedisServer) -> None:
    async with a_replica(own_server.url) as reader:
        await add_user_without_channels(reader)
        async with a_replica(without_channels(own_server), listens_first=False) as writer:
            await until(lambda: "NOPERM" in writer.health().parts["invalidation_bus"])
            for number in range(3):
                await keep(reader, a_span(fetched_at=NOW + number))
                assert await has_current_span(reader)
                await writer.invalidate([ALL_TAG], now=NOW)
                assert not await has_current_span(reader)


async def test_replica_that_may_not_subscribe_sees_the_writes_of_others(own_server: RedisServer) -> None:
    async with a_replica(own_server.url) as writer:
        await add_user_without_channels(writer)
        async with a_replica(without_channels(own_server), listens_first=False) as reader:
            await until(lambda: "NOPERM" in reader.health().parts["invalidation_bus"])
            for number in range(3):
                await keep(reader, a_span(fetched_at=NOW + number))
                await writer.invalidate([ALL_TAG], now=NOW)
                assert not await has_current_span(reader)


async def test_missing_right_to_channels_is_logged_once_with_the_right_that_it_takes(
    own_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with a_replica(own_server.url) as other:
        await add_user_without_channels(other)
        async with a_replica(without_channels(own_server), listens_first=False) as store:
            await until(lambda: "NOPERM" in store.health().parts["invalidation_bus"])
            tries = store.bus.sessions_begun
            await until(lambda: store.bus.sessions_begun >= tries + 3)
    told = [record.__dict__["event_fields"]["reason"] for record in caplog.records if "bus_down" in record.getMessage()]
    assert len(told) == 1
    assert "NOPERM" in told[0]
    assert f"&{other.far.names.channel}*" in told[0]
