"""Requests however divided, on either event loop, by TLS or not: each is answered, once and in its turn."""

from __future__ import annotations

import asyncio
import ssl
import zlib
from collections.abc import Callable, Coroutine, Iterator, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
import uvloop
from aiohttp import web

from proxy.config import tls
from tests.support.certificates import Authority
from tests.support.server_world import Line, World, a_world, head

# Repeated from memory, in a coding too, and on their whole way each time.
HEADS = [
    head(target="/v2/images?limit=3"),
    head(target="/v2/images?limit=4"),
    head(target="/v2/images?limit=2", Accept_Encoding="gzip"),
    head("HEAD", target="/v2/images?limit=1"),
    head(target="/v2/images?limit=1", TE="trailers"),
]
CONNECTIONS = 60
TOGETHER = 6

Run = Callable[[Coroutine[Any, Any, None]], None]
RUNS = [pytest.param(asyncio.run, id="asyncio"), pytest.param(uvloop.run, id="uvloop")]


async def turns(number: int) -> None:
    """Let the event loop go round *number* times, so that what was sent arrives."""
    for _ in range(number):
        await asyncio.sleep(0)


def divided(sent: bytes, ends: Sequence[int], dice: Random) -> Iterator[bytes]:
    """Yield *sent* in parts: all at once, head by head, or anyhow."""
    anyhow = sorted(dice.randrange(len(sent)) for _ in range(dice.randrange(1, 8)))
    for start, stop in pairwise([0, *dice.choice(([], ends[:-1], ends[:-1], anyhow)), len(sent)]):
        yield sent[start:stop]


async def asked(line: Line, dice: Random) -> None:
    """Send requests, waiting for some of the answers, and look at all of them; then the connection is as it was."""
    heads = [dice.choice(HEADS) for _ in range(dice.choice((1, 2, 3, 12, 60)))]
    ends = list(accumulate(map(len, heads)))
    waiting = dice.choice((0.0, 0.5, 0.9))
    answered = asyncio.Semaphore(0)

    async def sending() -> None:
        sent = awaited = 0
        for part in divided(b"".join(heads), ends, dice):
            await line.send(part)
            sent += len(part)
            await turns(dice.choice((0, 2, 10)))
            if dice.random() < waiting:
                while awaited < sum(end <= sent for end in ends):
                    await answered.acquire()
                    awaited += 1

    async with asyncio.TaskGroup() as group:
        group.create_task(sending())
        for each in heads:
            answer = await line.answer(bodiless=each.startswith(b"HEAD"))
            assert answer.status == 200
            body = zlib.decompress(answer.body, wbits=31) if "Content-Encoding" in answer.fields else answer.body
            assert each.startswith(b"HEAD") or each[4 : each.index(b" HTTP")] + b"&marker=" in body
            answered.release()
    assert (await line.get()).status == 200


async def secured(world: World, directory: Path) -> tuple[int, ssl.SSLContext]:
    """Let *world* speak TLS too, and return where, and what believes it."""
    authority = Authority(directory)
    pair = authority.pair("server", "localhost")
    serving = tls.make_server_context((pair.cert, pair.key), min_version="1.2")
    await web.TCPSite(world.runner, "127.0.0.1", 0, ssl_context=serving).start()
    return world.runner.addresses[1][1], ssl.create_default_context(cafile=authority.file)


async def connected(port: int, context: ssl.SSLContext | None) -> Line:
    """Return a new connection, by TLS where there is a *context*."""
    name = "localhost" if context else None
    return Line(*await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name))


async def divide(world: World, port: int, context: ssl.SSLContext | None) -> None:
    """Ask over many connections, in all kinds of parts."""
    dice = Random(port == world.port)
    open_now = asyncio.Semaphore(TOGETHER)

    async def one() -> None:
        async with open_now:
            line = await connected(port, context)
            await asked(line, dice)
            line.writer.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(one())
    assert world.counted() - world.gateway.whole > CONNECTIONS, "some were answered from memory"


@pytest.mark.parametrize("by_tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("run", RUNS)
def test_each_is_answered_in_its_turn(run: Run, by_tls: bool, tmp_path: Path) -> None:
    """Answers come in the order of their requests, and nothing is lost."""

    async def main() -> None:
        async with a_world() as world:
            if not by_tls:
                await divide(world, world.port, None)
                return
            await divide(world, *await secured(world, tmp_path))

    run(main())
