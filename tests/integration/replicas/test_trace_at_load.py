"""However many crawls of the fleet trace are under way, what one replica fetched is all that another one needs.

The replicas are processes of their own with a user's default settings, but for lifetimes, which a slow machine must
not outlast: this counts calls. The callers and the upstream share the process of the test.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from proxy.demo.app import ImsLookalike
from tests.conftest import Say
from tests.load.rig import find_breaker_events
from tests.support.iam import IamLookalike, of_project
from tests.support.proxy import ProxyProcess
from tests.support.redis import RedisServer
from tests.support.replicas import SECRET, list_calls
from tests.support.trace import TOKENS, Crawl, Figures, crawls, run

pytestmark = pytest.mark.xdist_group("load")

LIFETIMES: Final = {"CACHE__TTL_S": "600", "CACHE__TRANSIENT_TTL_S": "600"}
MOST_CALLS_A_LISTING: Final = 2.5
# How many crawls make up the trace, by how many of them are under way at a time: as many at least.
CRAWLS: Final = {16: 60, 64: 100, 256: 256}


@asynccontextmanager
async def replica(
    upstream: str, directory: Path, *, store: str, settings: Mapping[str, str]
) -> AsyncIterator[ProxyProcess]:
    """Run a proxy in a process of its own."""
    await asyncio.to_thread(directory.mkdir)
    process = ProxyProcess(upstream, directory, store=store, settings={**LIFETIMES, **settings})
    await asyncio.to_thread(process.__enter__)
    try:
        yield process
    finally:
        await asyncio.to_thread(process.__exit__, None, None, None)


@asynccontextmanager
async def identity(mode: str) -> AsyncIterator[Mapping[str, str]]:
    """Give the settings of an identity mode, with an IAM where it needs one."""
    if mode == "token":
        yield {"IDENTITY__SECRET": SECRET}
        return
    tokens = {name: of_project(caller.project, user=caller.user) for name, caller in TOKENS.items()}
    async with IamLookalike(tokens) as iam:
        yield {"IDENTITY__SECRET": SECRET, "IDENTITY__MODE": "project", "IDENTITY__IAM_URL": iam.url}


async def cost(lookalike: ImsLookalike, proxy: ProxyProcess, trace: list[Crawl], *, at_once: int) -> Figures:
    """Return what *trace* costs through *proxy*."""
    lookalike.clear_recorded_calls()
    return await run(
        trace, lookalike.catalogue, lambda: list_calls(lookalike), lambda _: lambda _: proxy.url, at_once=at_once
    )


@pytest.mark.parametrize("mode", ["token", "project"])
@pytest.mark.parametrize("at_once", CRAWLS)
async def test_another_replica_answers_the_trace_without_a_call_at_any_concurrency(
    lookalike: ImsLookalike, redis: RedisServer, tmp_path: Path, mode: str, at_once: int, say: Say
) -> None:
    """What the first replica fetched and stored, the second finds, and neither takes Redis to be away."""
    trace = crawls(CRAWLS[at_once])
    upstream = lookalike.base_url
    async with (
        identity(mode) as settings,
        replica(upstream, tmp_path / "first", store=redis.url, settings=settings) as first,
        replica(upstream, tmp_path / "second", store=redis.url, settings=settings) as second,
    ):
        fetched = await cost(lookalike, first, trace, at_once=at_once)
        again = await cost(lookalike, second, trace, at_once=at_once)
        say(f"{mode}, {at_once} at once, first: {fetched}\n{mode}, {at_once} at once, second: {again}")
        assert not fetched.wrong
        assert not again.wrong
        assert fetched.calls_per_listing <= MOST_CALLS_A_LISTING
        assert again.upstream_calls == 0
        assert not find_breaker_events([first, second])
