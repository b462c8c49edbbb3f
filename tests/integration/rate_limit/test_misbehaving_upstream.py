"""What callers see of an upstream that misbehaves, in a table that the test tells."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

import aiohttp
from aiohttp import web

from proxy.config.model import CacheSection
from proxy.demo.app import ImsLookalike, RecordedCall
from proxy.runtime.app import RunningProxy
from tests.conftest import Say
from tests.support import trace
from tests.support.replicas import replicas, settings
from tests.support.throttled_upstreams import budgeted, upstream

Behaviour = Callable[[RecordedCall], Awaitable[web.StreamResponse | None]]
Statuses = dict[int, int]

HUNG_S: Final = 60.0
MOST_WAIT_S: Final = 3.0
LIMIT_S: Final = 1.5  # for an answer: one that does not hang takes a tenth of it, where the machine goes on


async def _hang(_: RecordedCall) -> None:
    await asyncio.sleep(HUNG_S)


async def _reset(call: RecordedCall) -> None:
    call.abort_connection()
    await asyncio.sleep(1)


async def _slow(_: RecordedCall) -> None:
    await asyncio.sleep(0.1)


async def _truncated(call: RecordedCall) -> web.StreamResponse:
    assert call.transport is not None
    call.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nContent-Type: application/json\r\n\r\n{")
    call.abort_connection()
    return web.Response()


def _saying(status: int) -> Behaviour:
    async def said(_: RecordedCall) -> web.StreamResponse:
        return web.Response(status=status, headers={"Retry-After": "1"} if status == 429 else {})

    return said


MISBEHAVIOUR: Final[dict[str, tuple[Behaviour, set[int]]]] = {
    "slow": (_slow, {200}),
    "hanging": (_hang, {504, 503, 429}),
    "429": (_saying(429), {429}),
    # Of an upstream that fails fewer calls are made at once: who then is not served in time is told 429.
    "503": (_saying(503), {503, 429}),
    "resets": (_reset, {502, 503, 429}),
    "truncated": (_truncated, {502, 503, 429}),
}


class Seen(NamedTuple):
    """The statuses of lists that were known, of new ones with every third call wrong, of new ones with all wrong."""

    known: Statuses
    third: Statuses
    every: Statuses
    slowest_s: float


async def test_what_callers_see_of_an_upstream_that_misbehaves(say: Say) -> None:
    """Every third call goes wrong, and then every one: what had been fetched is given, and nobody waits for long."""
    rows = [await observed(behaviour) for behaviour, _ in MISBEHAVIOUR.values()]
    lines = ["upstream    known lists  new lists, 1 in 3 wrong  new lists, all wrong  slowest"]
    for name, seen in zip(MISBEHAVIOUR, rows, strict=True):
        lines.append(f"{name:<10}  {seen.known!s:<11}  {seen.third!s:<23}  {seen.every!s:<20}  {seen.slowest_s:.1f}s")
    say("\n".join(lines))
    for (name, (_, allowed)), seen in zip(MISBEHAVIOUR.items(), rows, strict=True):
        assert seen.known == {200: 12}, "what was fetched before is given, stale"
        assert set(seen.every) <= allowed, (name, seen.every)
        assert seen.third.get(200, 0) >= {"hanging": 6, "429": 4}.get(name, 8), (name, seen.third)
        assert seen.slowest_s < HUNG_S / 2, "on no machine does anybody wait as long as an answer hangs"


async def observed(behaviour: Behaviour) -> Seen:
    """Return what twelve callers at a time see of an upstream with that *behaviour*."""
    async with upstream() as lookalike:
        base = settings(lookalike.base_url)
        base = base.model_copy(
            update={
                "upstream": base.upstream.model_copy(update={"read_timeout_s": LIMIT_S}),
                "cache": CacheSection(ttl_s=0.3, stale_while_revalidate_s=0, readahead=False),
            }
        )
        async with replicas(1, budgeted(base, max_wait_s=MOST_WAIT_S)) as (proxy,):
            return await seen_through(proxy, lookalike, behaviour)


async def seen_through(proxy: RunningProxy, lookalike: ImsLookalike, behaviour: Behaviour) -> Seen:
    """Return what twelve callers at a time see through *proxy* while *lookalike* has that *behaviour*."""
    token = next(iter(trace.TOKENS))
    slowest_s = 0.0
    count = 0

    async def third(call: RecordedCall) -> web.StreamResponse | None:
        nonlocal count
        count += 1
        return None if count % 3 else await behaviour(call)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:

        async def asked(names: list[str]) -> Statuses:
            nonlocal slowest_s

            async def one(query: str) -> int:
                async with client.get(f"{proxy.url}/v2/images?{query}", headers={"X-Auth-Token": token}) as answer:
                    await answer.read()
                    return answer.status

            began = time.monotonic()
            statuses = await asyncio.gather(*(one(f"limit=5&name={each}") for each in names))
            slowest_s = max(slowest_s, time.monotonic() - began)
            return {status: statuses.count(status) for status in sorted(set(statuses))}

        known = [f"known-{number}" for number in range(12)]
        async with asyncio.timeout(HUNG_S):
            while set(await asked(known)) != {200}:
                pass  # on a busy machine not every list comes within the short limits at once
            slowest_s = 0.0
        lookalike.response_hook = third
        partly = await asked([f"third-{number}" for number in range(12)])
        await asyncio.sleep(0.4)
        lookalike.response_hook = behaviour
        stale = await asked(known)
        every = await asked([f"every-{number}" for number in range(12)])
    return Seen(stale, partly, every, slowest_s)
