"""Who breaks off, on either side: the other side sees it at once, and nothing of the exchange stays behind."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.support.origin import End, Origin, a_caller
from tests.support.waiting import until

GET = b"GET /v2/images/x/file HTTP/1.1\r\nHost: x\r\n\r\n"
PUT = b"PUT /v2/images/x/file HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nbegun"
HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nbegun"


async def begun(origin: Origin, caller: End, sent: bytes, answer: bytes = b"") -> End:
    """Return the upstream's end of an exchange that *caller* has begun and that has come as far as *answer*."""
    caller.send(sent)
    upstream = await origin.end()
    await upstream.until(b"\r\n\r\nbegun" if sent is PUT else b"\r\n\r\n")
    if answer:
        upstream.send(answer)
        await caller.until(b"\r\n\r\nbegun")
    return upstream


async def caller_uploading(origin: Origin, url: str) -> None:
    """A caller cuts its upload: the upstream's connection ends."""
    async with a_caller(url) as caller:
        upstream = await begun(origin, caller, PUT)
        caller.cut()
        assert await upstream.rest() == b""
        upstream.cut()


async def caller_waiting(origin: Origin, url: str) -> None:
    """A caller vanishes before its answer has come: the upstream's connection ends."""
    async with a_caller(url) as caller:
        upstream = await begun(origin, caller, GET)
        caller.reset()
        assert await upstream.rest() == b""
        upstream.cut()


async def caller_downloading(origin: Origin, url: str) -> None:
    """A caller cuts its download: the upstream's connection ends."""
    async with a_caller(url) as caller:
        upstream = await begun(origin, caller, GET, HALF)
        caller.cut()
        assert await upstream.rest() == b""
        upstream.cut()


async def upstream_downloading(origin: Origin, url: str) -> None:
    """The upstream cuts a download: the caller's connection is cut too, for only that tells it."""
    async with a_caller(url) as caller:
        upstream = await begun(origin, caller, GET, HALF)
        upstream.cut()
        assert len(await caller.rest()) < 1_000_000


async def upstream_uploading(origin: Origin, url: str) -> None:
    """The upstream cuts an upload: the caller hears of it while it still has most of the body to send."""
    async with a_caller(url) as caller:
        upstream = await begun(origin, caller, PUT)
        upstream.cut()
        assert (await caller.head()).startswith(b"HTTP/1.1 502 ")
        caller.cut()
    async with a_caller(url) as caller:  # an upstream that does nothing but cut is left alone for a while
        (await begun(origin, caller, GET, HALF)).cut()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def forget_cancelled_timers() -> None:
    """Let asyncio drop them: behind one that is due it keeps up to a hundred, and the proxy's own is always due."""
    for _ in range(101):
        asyncio.get_running_loop().call_later(60.0, gc.isenabled).cancel()
    await asyncio.sleep(0)


Abort = Callable[[Origin, str], Awaitable[None]]
ABORTS: list[Abort] = [
    caller_uploading,
    caller_waiting,
    caller_downloading,
    upstream_downloading,
    upstream_uploading,
]


@pytest.mark.parametrize("abort", ABORTS)
async def test_the_other_side_sees_it_at_once(origin: Origin, url: str, abort: Abort) -> None:
    """No time limit has to pass before the end of one connection is the end of the other."""
    await abort(origin, url)


@pytest.mark.parametrize("abort", ABORTS)
async def test_nothing_stays_behind(origin: Origin, url: str, abort: Abort) -> None:
    """After two hundred aborts there are as many tasks and open files as before, and no more objects than a few."""

    async def repeated(count: int) -> tuple[int, int, int]:
        for _ in range(count):
            await abort(origin, url)
        origin.close()
        await until(quiet)
        await forget_cancelled_timers()
        gc.collect()
        return len(asyncio.all_tasks()), open_files(), len(gc.get_objects())

    async def quiet() -> bool:
        return len(asyncio.all_tasks()) <= tasks and open_files() <= files

    tasks, files = len(asyncio.all_tasks()), open_files()
    warm = await repeated(50)
    after = await repeated(200)
    print(abort.__name__, warm, after)
    assert after[0] == warm[0] == tasks
    assert after[1] == warm[1] == files
    assert after[2] - warm[2] < 200
