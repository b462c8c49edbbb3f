"""Answers whose bodies are made anew: what may happen to a connection, and to the store, while that is under way."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from proxy.caching import bounded as codings
from proxy.core.cache_key import EVERYTHING
from proxy.core.purge import Purge
from proxy.errors import StoreUnavailableError
from proxy.server.connection import Repeating
from tests.gateway.conftest import ROWS
from tests.harness.waiting import until
from tests.model import Model
from tests.web.world import Line, World, a_world, head

OTHER = "/v2/images?limit=4"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """A front that keeps no bodies."""
    async with a_world(bodies=False) as made:
        yield made
        made.store.gate.set()


async def seeking(world: World, line: Line, request: bytes | None = None) -> None:
    """Send a *request* on *line* whose answer is being sought when this returns, and won't come yet."""
    world.store.gate.clear()
    world.store.asked.clear()
    await line.send(request or head())
    async with asyncio.timeout(60):
        await world.store.asked.wait()


async def test_nothing_is_kept_of_a_page(world: World) -> None:
    """A long page that is repeated takes no more memory than a short one."""
    line = await world.warm()
    short, taken = await line.get(), world.memo.stored_bytes
    line = await world.warm(target="/v2/images?limit=100")
    long = await line.get(target="/v2/images?limit=100")
    assert world.gateway.whole == 0
    assert len(long.body) > len(short.body) + 1000
    assert world.memo.stored_bytes < 2 * taken + 600


@pytest.mark.parametrize("bodies", [True, False], ids=["with bodies", "without"])
@pytest.mark.parametrize("target", ["/v2/images?limit=3&name=", "/v2/cloudimages?limit=3&name="])
@pytest.mark.parametrize("length", [1, 10_000])
async def test_no_more_is_kept_than_is_counted(bodies: bool, target: str, length: int) -> None:
    """Neither long queries nor long tokens take more memory than there is for answers to be given again."""
    async with a_world(bodies=bodies) as world:
        line = await world.warm()
        tracemalloc.start()
        try:
            for number in range(20):
                for _ in range(2):
                    await line.get(target=f"{target}{number}{length * 'n'}", token=f"{number}{length * 't'}")
            await line.get()  # now the connection keeps no long head
            counted = world.memo.stored_bytes
            gc.collect()
            taken, _ = tracemalloc.get_traced_memory()
            world.memo.close()
            gc.collect()
            left, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert taken - left < counted


async def test_another_page_goes_the_whole_way(world: World) -> None:
    """Where the store has other spans than those that were decided about, everything is decided anew."""
    line = await world.warm()
    world.upstream.model = Model(("new", *ROWS))
    assert b'"new"' in (await (await world.line()).get(Cache_Control="no-cache")).body
    world.gateway.whole = 0
    assert b'"new"' in (await line.get()).body
    assert world.gateway.whole == 1
    assert b'"new"' in (await line.get()).body
    assert world.gateway.whole == 1


@pytest.mark.parametrize(
    "fault", [StoreUnavailableError("away"), ValueError("not foreseen")], ids=["away", "not foreseen"]
)
async def test_a_store_that_fails_costs_nobody_an_answer(world: World, fault: Exception) -> None:
    """The request goes its whole way, where such things are dealt with."""
    line = await world.warm()
    world.store.away = fault
    assert (await line.get()).status == 200
    assert world.gateway.whole == 1


@pytest.mark.parametrize("end", ["purge", "write", "lifetime", "401"])
async def test_what_ends_meanwhile_is_not_given(world: World, end: str) -> None:
    """What the store said before is worth nothing once the page, or who may see it, has become doubtful."""
    line, other = await world.warm(), await world.line()
    await seeking(world, line)
    world.upstream.model = Model(("new", *ROWS))
    if end == "purge":
        await world.gateway.purge(Purge((EVERYTHING,)))
    elif end == "lifetime":
        world.hand.now += 3600
    else:
        world.upstream.status = 204 if end == "write" else 401
        await other.send(head("DELETE", "/v2/images/i001"))
        assert (await other.answer()).status == world.upstream.status
    world.gateway.whole = 0
    world.store.gate.set()
    assert b'"new"' in (await line.answer()).body
    assert world.gateway.whole == 1


async def test_what_comes_behind_waits_for_its_turn(world: World) -> None:
    """Requests that are sent without waiting are answered in order, whatever way each takes."""
    line = await world.warm()
    await seeking(world, line)
    await line.send(head(target=OTHER, TE="trailers") + head())
    await line.send(head(target=OTHER)[:20])
    await line.send(head(target=OTHER)[20:])
    world.store.gate.set()
    for target in (b"limit=3", b"limit=4", b"limit=3", b"limit=4"):
        assert target in (await line.answer()).body
    assert (await line.get()).status == 200


async def test_reading_goes_on_behind_it(world: World) -> None:
    """Once what came behind an answer that was sought has been answered from memory too, more may come."""
    line = await world.warm()
    await seeking(world, line)
    await line.send(head())
    (connection,) = world.server.connections
    assert isinstance(connection, Repeating)
    await until(lambda: bool(connection._held))
    world.store.gate.set()
    for _ in range(2):
        assert (await line.answer()).status == 200
    assert (await line.get()).status == 200
    assert world.gateway.whole == 0


async def test_no_more_is_read_than_can_be_answered(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that goes on sending is made to wait; what it sent is not lost."""
    line = await world.warm()
    await seeking(world, line)
    many = 20_000
    sending = asyncio.create_task(line.send(head(target=OTHER) * many))
    (connection,) = world.server.connections
    assert isinstance(connection, Repeating)
    assert connection.transport is not None
    await until(lambda: connection.transport is not None and not connection.transport.is_reading())
    assert len(connection._held) < 1 << 20
    resume, full = connection._resume_transport_reading, []

    def resumed() -> None:
        full.append(connection._buffer_paused)
        resume()

    monkeypatch.setattr(connection, "_resume_transport_reading", resumed)
    world.store.gate.set()
    assert b"limit=3" in (await line.answer()).body
    for _ in range(10):
        assert b"limit=4" in (await line.answer()).body
    await until(lambda: bool(full))
    assert not any(full)
    sending.cancel()


async def test_a_caller_that_hangs_up_is_counted(world: World) -> None:
    """It is one that went away, as on the whole way; nothing of it stays."""
    line = await world.warm()
    await seeking(world, line)
    line.reset()
    await until(lambda: not world.server.connections)
    assert world.counted('status="499"') == 0
    world.store.gate.set()
    await until(lambda: world.counted('status="499"') == 1)


@pytest.mark.parametrize("whole", [False, True], ids=["at once", "the whole way"])
async def test_a_caller_that_ends_its_side_is_answered(world: World, whole: bool) -> None:
    """Behind the answer the connection ends."""
    line = await world.warm()
    await seeking(world, line)
    line.writer.write_eof()
    await (await world.line()).get(target=OTHER)  # by its answer, the end has arrived
    if whole:
        await world.gateway.purge(Purge((EVERYTHING,)))
    world.store.gate.set()
    assert (await line.answer()).status == 200
    assert await line.ended()


async def test_a_drain_waits_for_it(world: World) -> None:
    """Who was under way when the proxy was told to stop is answered, as the last one on its connection."""
    line = await world.warm()
    await seeking(world, line)
    world.memo.close()
    draining = asyncio.create_task(world.server.drain(0.0))
    stopping = asyncio.create_task(world.runner.cleanup())
    await draining
    for _ in range(50):
        await asyncio.sleep(0)  # by now it has come to every connection
    world.store.gate.set()
    answer = await line.answer()
    assert (answer.status, answer.fields["Connection"]) == (200, "close")
    assert await line.ended()
    await stopping


async def test_it_is_no_idle_connection(world: World) -> None:
    """Where there are too many connections, one whose answer is being sought is not the one to go."""
    line = await world.warm()
    (connection,) = world.server.connections
    assert isinstance(connection, Repeating)
    assert connection.idle
    await seeking(world, line)
    assert not connection.idle
    world.store.gate.set()
    assert (await line.answer()).status == 200
    assert connection.idle


async def test_what_is_not_foreseen_ends_the_connection(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told of, and nobody waits on that connection for what will not come."""
    line = await world.warm()
    await seeking(world, line)
    await line.send(head())
    monkeypatch.setattr(world.memo, "find", None)
    world.store.gate.set()
    with suppress(ConnectionResetError):
        assert await line.ended()
    await until(lambda: not world.server.connections)
    assert [record.message for record in caplog.records] == ["failed"]


@pytest.mark.parametrize(("method", "fields"), [("HEAD", {}), ("GET", {"If_None_Match": "*"})], ids=["HEAD", "304"])
async def test_no_body_is_made_for_nobody(
    world: World, monkeypatch: pytest.MonkeyPatch, method: str, fields: dict[str, str]
) -> None:
    """Where none follows the head, the store is asked whether it would be the same, and nothing is coded."""
    line = await world.line()
    request = head(method, target="/v2/images?limit=50", Accept_Encoding="gzip", **fields)
    for _ in range(2):
        await line.send(request)
        await line.answer(bodiless=True)
    world.gateway.whole = 0
    world.store.asked.clear()
    monkeypatch.setattr(codings, "encoded", None)
    await line.send(request)
    answer = await line.answer(bodiless=True)
    assert answer.status == (200 if method == "HEAD" else 304)
    assert answer.fields["ETag"].endswith('-gzip"')
    assert world.gateway.whole == 0
    assert world.store.asked.is_set()


async def test_a_body_of_another_length_goes_the_whole_way(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not follow a head that says how long another one was."""
    line = await world.warm(target="/v2/images?limit=50", Accept_Encoding="gzip")
    monkeypatch.setattr(codings, "encoded", lambda body, _: zlib.compress(body, 0, wbits=31))
    answer = await line.get(target="/v2/images?limit=50", Accept_Encoding="gzip")
    assert zlib.decompress(answer.body, wbits=31).endswith(b"]}")
    assert world.gateway.whole == 1


async def test_a_connection_is_not_idle_for_too_long_meanwhile(world: World) -> None:
    """The time for which it may be idle begins anew."""
    line = await world.warm()
    (connection,) = world.server.connections
    connection._next_keepalive_close_time = 0.0
    await seeking(world, line)
    connection._process_keepalive()
    world.store.gate.set()
    assert (await line.answer()).status == 200


async def test_a_connection_that_is_to_close_closes_behind_it(world: World) -> None:
    """What is under way is answered, and nothing more is taken."""
    line = await world.warm()
    (connection,) = world.server.connections
    assert isinstance(connection, Repeating)
    await seeking(world, line)
    connection.close()
    world.store.gate.set()
    assert (await line.answer()).status == 200
    await until(lambda: connection._waiter is None)


async def test_what_can_t_be_made_anew_is_not_remembered(world: World) -> None:
    """A page that comes from spans without marks goes the whole way each time."""
    world.store.marking = False
    line = await world.line()
    for _ in range(3):
        await line.get()
    assert world.gateway.whole == 3
    assert len(world.memo) == 0
