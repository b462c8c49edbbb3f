"""Commands to Redis, sent together: what is asked while others are under way goes in one pipeline.

To the client, a pipeline of one command costs nearly as much as one of thirty. So commands are gathered until the
event loop's next turn, or, while as many pipelines as may be are under way, until one of those is answered.

Equal questions, which change nothing, are sent once and share the answer, unless they have been sent already: then the
answer may be from before a write that the later caller knows of.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from proxy.observability.event_loop import cancel_and_wait, run_in_thread
from proxy.storage.redis_connection import RedisServers

Result = TypeVar("Result")
Word = str | int | float | bytes
Words = Sequence[Word]

_MAX_PIPELINES: Final = 4
_MAX_BATCH: Final = 64
OFF_LOOP_BYTES: Final = 256 * 1024  # values from this size on are sealed, checked and opened in a thread


@dataclass(slots=True, eq=False)
class _Batchable:
    """*commands*, what is *read* from their replies, and who waits for it."""

    commands: Sequence[Words]
    read: Callable[[list[Any]], Any]
    waiting: list[asyncio.Future[Any]] = field(default_factory=list)
    needed: int | None = None

    async def resolve(self, replies: list[Any]) -> None:
        """Give *replies* to who waits, or what was raised in place of the first *needed* ones, of all by default.

        Large replies are read in a thread.
        """
        refused = next((each for each in replies[: self.needed] if isinstance(each, Exception)), None)
        if refused is not None:
            self.fail(refused)
            return
        try:
            if _size_bytes(replies) < OFF_LOOP_BYTES:
                result = self.read(replies)
            else:
                result = await run_in_thread(lambda: self.read(replies))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is for those who asked this, and for nobody else
            self.fail(error)
            return
        for future in self.waiting:
            if not future.done():
                future.set_result(result)

    def fail(self, error: Exception) -> None:
        """Raise *error* where it is waited."""
        for future in self.waiting:
            if not future.done():
                future.set_exception(error)


class Pipeline:
    """Questions that have not been sent, and the tasks that send them; the client's own time limits end those."""

    def __init__(self, servers: RedisServers) -> None:
        self._servers = servers
        self._unsent: dict[Hashable, _Batchable] = {}
        self._pipelines: set[asyncio.Task[None]] = set()
        self._starting = False  # whether one of them has yet to take what is unsent
        self._closed = False

    async def query(
        self, question: Hashable, commands: Callable[[], Sequence[Words]], read: Callable[[list[Any]], Result]
    ) -> Result:
        """Return what *read* makes of the replies to *commands*, which *question* stands for.

        They are made, and read, once for all who ask the same together. Raises what the client raises, or *read* does.
        """
        unsent = self._unsent.get(question)
        if unsent is None:
            unsent = self._unsent[question] = _Batchable(commands(), read)
        result: Result = await self._enqueue(unsent)
        return result

    async def execute(
        self, commands: Sequence[Words], read: Callable[[list[Any]], Result], *, needed: int | None = None
    ) -> Result:
        """Return what *read* makes of the replies to *commands*, which may change something.

        Raises what the client raises in place of one of the first *needed* replies, of all by default.
        """
        question = _Batchable(commands, read, needed=needed)
        self._unsent[question] = question
        result: Result = await self._enqueue(question)
        return result

    async def _enqueue(self, unsent: _Batchable) -> Any:
        if self._closed:
            self._unsent.clear()
            raise ConnectionError("store: closed")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        unsent.waiting.append(future)
        self._start()
        return await future

    def _start(self) -> None:
        """Send what is unsent, unless somebody is about to take it, or as many pipelines as may be are under way."""
        # One that has ended is still among them until the loop comes to say so, and takes nothing any more.
        if not self._starting and sum(not each.done() for each in self._pipelines) < _MAX_PIPELINES:
            self._starting = True
            task = asyncio.create_task(self._send_batches())
            self._pipelines.add(task)
            task.add_done_callback(self._pipelines.discard)

    async def reset(self) -> None:
        """Give up what is under way and what was not sent yet, and tell those who wait."""
        await self._fail_all()
        if self._unsent:  # asked meanwhile, when those that ended were to take it
            self._start()

    async def close(self) -> None:
        """End what is under way, and tell those who still wait, for what was never sent too."""
        self._closed = True
        await self._fail_all()

    async def _fail_all(self) -> None:
        unsent = list(self._unsent.values())
        self._unsent.clear()
        _fail(unsent, ConnectionError("store: given up"))
        self._starting = False  # one of those that end may never have begun
        await cancel_and_wait(self._pipelines)

    async def _send_batches(self) -> None:
        self._starting = False
        while self._unsent:
            together = [self._unsent.pop(each) for each in list(self._unsent)[:_MAX_BATCH]]
            together = [each for each in together if not all(future.done() for future in each.waiting)]
            if together:
                await self._send_batch(together)

    async def _send_batch(self, together: Sequence[_Batchable]) -> None:
        try:
            async with self._servers.redis.pipeline(transaction=False) as pipe:
                for each in together:
                    for words in each.commands:
                        pipe.execute_command(*words)
                replies = await pipe.execute(raise_on_error=False)
            at = 0
            for each in together:
                await each.resolve(replies[at : at + len(each.commands)])
                at += len(each.commands)
        except asyncio.CancelledError:
            _fail(together, ConnectionError("store: closed"))
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is for those who wait
            _fail(together, error)


def _fail(together: Sequence[_Batchable], error: Exception) -> None:
    for each in together:
        each.fail(error)


def _size_bytes(reply: Any) -> int:
    if isinstance(reply, list):
        return sum(map(_size_bytes, reply))
    return len(reply) if isinstance(reply, bytes) else 0
