"""Questions to Redis that are sent together: a client that notes its pipelines, behind a gate."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any, Self, cast

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from proxy.storage.redis_connection import RedisServers
from proxy.storage.redis_pipeline import OFF_LOOP_BYTES, Pipeline


class FakePipeline:
    """Answers each command with its words, when the gate is open."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._commands: list[tuple[object, ...]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    def execute_command(self, *words: object) -> None:
        """Note a command."""
        self._commands.append(words)

    async def execute(self, *, raise_on_error: bool) -> list[Any]:
        """Return a reply to each command: an error to one that is named REFUSED."""
        assert not raise_on_error
        self._client.sent.append([str(words[0]) for words in self._commands])
        self._client.arrived.set()
        await self._client.gate.wait()
        if self._client.failing is not None:
            raise self._client.failing
        return [ResponseError("no") if words[0] == "REFUSED" else list(words) for words in self._commands]


class Client:
    """A client of Redis that is asked by pipelines alone; *sent* are the commands of each."""

    def __init__(self) -> None:
        self.sent: list[list[str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.arrived = asyncio.Event()
        self.failing: Exception | None = None

    def pipeline(self, *, transaction: bool) -> FakePipeline:
        """Return a pipeline."""
        assert not transaction
        return FakePipeline(self)


@pytest.fixture
def client() -> Client:
    """A client whose gate is open."""
    return Client()


@pytest.fixture
async def lane(client: Client) -> AsyncIterator[Pipeline]:
    """A lane over *client*."""
    made = Pipeline(RedisServers(cast(Redis, client)))
    yield made
    client.gate.set()
    await made.close()


def asking(lane: Pipeline, *words: str) -> asyncio.Task[object]:
    """Ask for the reply to one command, which is the question too."""
    return asyncio.create_task(lane.query(words, lambda: [words], lambda replies: replies[0]))


async def held(client: Client, lane: Pipeline) -> asyncio.Task[object]:
    """Return a question that is under way, and not answered while the gate is shut."""
    client.gate.clear()
    first = asking(lane, "FIRST")
    async with asyncio.timeout(60):
        await client.arrived.wait()
    return first


async def test_together(client: Client, lane: Pipeline) -> None:
    """What is asked in one turn goes in one pipeline, the same question once, and each gets its own reply."""
    replies = await asyncio.gather(asking(lane, "A", "1"), asking(lane, "B"), asking(lane, "A", "1"))
    assert list(replies) == [["A", "1"], ["B"], ["A", "1"]]
    assert client.sent == [["A", "B"]]


async def test_several_commands(client: Client, lane: Pipeline) -> None:
    """A question may be of several commands: all of their replies are for it."""
    other = asking(lane, "B")
    told = await lane.query("two", lambda: [("A", "1"), ("A", "2")], lambda replies: [reply[1] for reply in replies])
    assert told == ["1", "2"]
    assert await other == ["B"]


async def test_what_is_under_way_is_not_joined(client: Client, lane: Pipeline) -> None:
    """The answer to come may be from before a write that who asks now has seen: it is asked anew."""
    first = await held(client, lane)
    again = asking(lane, "FIRST")
    await asyncio.sleep(0)
    client.gate.set()
    assert list(await asyncio.gather(first, again)) == [["FIRST"], ["FIRST"]]
    assert client.sent == [["FIRST"], ["FIRST"]]


async def test_refused(client: Client, lane: Pipeline) -> None:
    """A command that Redis refuses is an error for who asked, and for nobody else."""
    refused, other = await asyncio.gather(asking(lane, "REFUSED"), asking(lane, "B"), return_exceptions=True)
    assert isinstance(refused, ResponseError)
    assert other == ["B"]


async def test_failing(client: Client, lane: Pipeline) -> None:
    """When a pipeline fails everyone in it is told, and the next one is sent as if nothing had been."""
    client.failing = RedisConnectionError("gone")
    told = await asyncio.gather(asking(lane, "A"), asking(lane, "B"), return_exceptions=True)
    assert [type(each) for each in told] == [RedisConnectionError] * 2
    client.failing = None
    assert await asking(lane, "C") == ["C"]


async def test_who_reads_fails(client: Client, lane: Pipeline) -> None:
    """What can't be read is an error for who asked it, not a wait without an end, and for nobody else."""
    unread = asyncio.create_task(lane.query("a", lambda: [("A",)], lambda _: 1 // 0))
    other = asking(lane, "B")
    with pytest.raises(ZeroDivisionError):
        await unread
    assert await other == ["B"]
    assert client.sent == [["A", "B"]]


async def test_asking_on_when_all_pipelines_end_together(client: Client, lane: Pipeline) -> None:
    """Who is answered by the first of four that end in one turn of the loop, and asks on at once, is answered too."""
    client.gate.clear()

    async def two() -> object:
        await lane.query("first", lambda: [("A",)], lambda replies: replies[0])
        return await lane.query("second", lambda: [("B",)], lambda replies: replies[0])

    asking_on = asyncio.create_task(two())
    others = []
    for number in range(3):
        for _ in range(5):
            await asyncio.sleep(0)
        others.append(asking(lane, str(number)))
    for _ in range(5):
        await asyncio.sleep(0)
    assert client.sent == [["A"], ["0"], ["1"], ["2"]]
    client.gate.set()
    async with asyncio.timeout(60):
        assert await asking_on == ["B"]
        await asyncio.gather(*others)


async def test_hang_ups(client: Client, lane: Pipeline) -> None:
    """Who goes away takes nothing from those who ask the same; where all have gone, nothing is sent."""
    first = await held(client, lane)
    leaving, staying, nobody = asking(lane, "A"), asking(lane, "A"), asking(lane, "B")
    await asyncio.sleep(0)
    leaving.cancel()
    nobody.cancel()
    client.gate.set()
    assert list(await asyncio.gather(first, staying)) == [["FIRST"], ["A"]]
    assert client.sent == [["FIRST"], ["A"]]


async def test_bounds(client: Client, lane: Pipeline) -> None:
    """At most four pipelines are under way, of at most 64 questions each; the rest follows, and all are answered."""
    client.gate.clear()
    questions = []
    for number in range(8):
        questions += [asking(lane, f"Q{number}-{each}") for each in range(80)]
        for _ in range(5):
            await asyncio.sleep(0)
    assert len(client.sent) == 4
    client.gate.set()
    assert len(await asyncio.gather(*questions)) == 640
    assert max(map(len, client.sent)) <= 64


async def test_closed(client: Client, lane: Pipeline) -> None:
    """Who still waits when the lane is closed is told so."""
    first = await held(client, lane)
    await lane.close()
    with pytest.raises(ConnectionError):
        await first


async def test_closed_before_it_was_sent(client: Client, lane: Pipeline) -> None:
    """So is who asked what nobody has come to send."""
    unsent = asking(lane, "A")
    await asyncio.sleep(0)
    await lane.close()
    async with asyncio.timeout(60):
        with pytest.raises(ConnectionError):
            await unsent
    assert not client.sent


async def test_large_replies_are_read_in_a_thread_and_small_ones_at_once(lane: Pipeline) -> None:
    """To check and parse a large value takes milliseconds, which nobody else should wait for."""
    threads: dict[int, threading.Thread] = {}

    def read(replies: list[Any]) -> bytes:
        (_, value) = replies[0]
        threads[len(value)] = threading.current_thread()
        return bytes(value)

    async def ask(size_bytes: int) -> bytes:
        return await lane.query(size_bytes, lambda: [("GET", bytes(size_bytes))], read)

    sizes = [100, OFF_LOOP_BYTES, OFF_LOOP_BYTES - 1]
    async with asyncio.timeout(60):
        assert await asyncio.gather(*map(ask, sizes)) == list(map(bytes, sizes))
    assert [threads[size] is threading.main_thread() for size in sizes] == [True, False, True]


async def test_error_in_reading_a_large_reply_is_for_who_asked(lane: Pipeline) -> None:
    """It is raised where the answer is waited for, and the next question is answered."""

    def read(replies: list[Any]) -> bytes:
        raise ValueError(len(replies))

    async with asyncio.timeout(60):
        with pytest.raises(ValueError, match="1"):
            await lane.query("large", lambda: [("GET", bytes(OFF_LOOP_BYTES))], read)
        assert await asking(lane, "another") == ["another"]


@pytest.mark.parametrize("begun", [False, True])
async def test_question_that_is_asked_while_others_are_given_up_is_sent(
    lane: Pipeline, client: Client, *, begun: bool
) -> None:
    """Those that end take it no more, whether they wait for replies or have never begun."""
    client.gate.clear()
    given_up = [asyncio.create_task(lane.execute([(f"old-{number}",)], len)) for number in range(4)]
    if begun:
        async with asyncio.timeout(60):
            await client.arrived.wait()
    else:
        await asyncio.sleep(0)
    late = asyncio.create_task(lane.execute([("late",)], len))
    await lane.reset()
    client.gate.set()
    async with asyncio.timeout(60):
        assert await late == 1
        await asyncio.gather(*given_up, return_exceptions=True)


async def test_question_that_is_asked_while_the_lane_closes_is_answered(lane: Pipeline) -> None:
    given_up = asyncio.create_task(lane.execute([("old",)], len))
    await asyncio.sleep(0)
    late = asyncio.create_task(lane.execute([("late",)], len))
    await lane.close()
    async with asyncio.timeout(60):
        outcomes = await asyncio.gather(given_up, late, return_exceptions=True)
    assert all(isinstance(each, ConnectionError) for each in outcomes)
