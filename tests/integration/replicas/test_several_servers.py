"""Whole proxies on a Redis cluster, or where a Sentinel leads them: as on one server, and through a failover."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from proxy.config.model import BudgetSection
from proxy.core.cache_key import ALL_TAG
from proxy.demo.app import ImsLookalike, RecordedCall
from proxy.storage.redis_scripts import KeyNames, prefix_for_upstream
from tests.conftest import Say
from tests.integration.replicas.test_own_writes import WITHIN_S, going_on, load, own, pairs
from tests.support.redis_fleet import RedisCluster, SentinelService
from tests.support.replicas import list_calls, metric, replicas, round_robin, settings
from tests.support.trace import Crawl, run

__all__ = ["own"]

CRAWLS = 60
MOST_CALLS_A_LISTING = 2.5
TTL_S = 600.0  # calls are counted here: a slow machine is not to outlast what it fetched
PAIRS, WORKERS, CALM = 200, 5, 40


@dataclass(frozen=True, slots=True)
class Servers:
    """Where the replicas find Redis, and what kills the server that invalidations are told to."""

    url: str
    kill: Callable[[], None]


@pytest.fixture(params=["cluster", "sentinel"])
def servers(request: pytest.FixtureRequest, tmp_path: Path, lookalike: ImsLookalike) -> Iterator[Servers]:
    """Servers of the test's own, each with a copy that takes its place."""
    if request.param == "cluster":
        with RedisCluster(tmp_path, copies=True) as cluster:
            names = KeyNames(prefix_for_upstream("ims-proxy:", lookalike.base_url))
            yield Servers(cluster.url, cluster.keeper(names.generation(ALL_TAG)).kill)
    else:
        with SentinelService(tmp_path) as service:
            yield Servers(service.url, service.leader.kill)


async def test_the_trace_costs_no_more_on_several_servers(
    lookalike: ImsLookalike, trace: list[Crawl], servers: Servers, say: Say
) -> None:
    """Spans, claims, news and a budget are shared as on one server, and no command fails."""
    each = settings(lookalike.base_url, store=servers.url, ttl_s=TTL_S)
    each = each.model_copy(update={"budget": BudgetSection(calls=10_000, per_s=60.0)})
    async with replicas(2, each) as proxies, aiohttp.ClientSession() as client:
        origin = round_robin(proxies)
        figures = await run(trace[:CRAWLS], lookalike.catalogue, lambda: list_calls(lookalike), lambda _: origin)
        failures = await metric(client, proxies, "ims_proxy_store_errors_total")
    say(f"{servers.url.partition(':')[0]}: {figures}")
    assert not figures.wrong
    assert figures.calls_per_listing <= MOST_CALLS_A_LISTING
    assert failures == 0


async def test_no_list_is_older_than_a_change_while_another_server_takes_over(
    own: ImsLookalike, servers: Servers
) -> None:
    """The server that is told of writes dies in the middle of changes and lists, and none of these is stale."""
    changes = 0

    async def script(call: RecordedCall) -> None:
        nonlocal changes
        changes += call.method == "PATCH"
        if call.method == "PATCH" and changes == CALM:
            await asyncio.to_thread(servers.kill)

    own.response_hook = script
    ids = [image.id for image in own.catalogue]
    each = settings(own.base_url, store=servers.url, near_ttl_s=0.4)
    async with (
        replicas(2, each) as proxies,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client,
        asyncio.timeout(WITHIN_S),
        going_on(load(client, proxies, seed=1)),
    ):
        stale = await asyncio.gather(
            *(pairs(client, proxies, ids[mine::WORKERS], range(mine, PAIRS, WORKERS)) for mine in range(WORKERS))
        )
    assert changes > CALM
    assert not [each for some in stale for each in some]
