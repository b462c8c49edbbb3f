"""Whole proxies on a Redis cluster, or where a Sentinel leads them: the trace costs what it costs on one server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from proxy.config import BudgetSection
from proxy.demo.server import Lookalike
from tests.conftest import Say
from tests.fleet.replicas import list_calls, metric, replicas, round_robin, settings
from tests.fleet.trace import Crawl, run
from tests.harness.redis_fleet import RedisCluster, SentinelService

CRAWLS = 60
MOST_CALLS_A_LISTING = 2.5
PATIENT_MS = 5000.0


@pytest.fixture(params=["cluster", "sentinel"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where the replicas find Redis."""
    with (RedisCluster if request.param == "cluster" else SentinelService)(tmp_path) as servers:
        yield servers.url


async def test_the_trace_costs_no_more_on_several_servers(
    lookalike: Lookalike, trace: list[Crawl], url: str, say: Say
) -> None:
    """Spans, claims, news and a budget are shared as on one server, and no command fails."""
    each = settings(lookalike.base_url, store=url, timeout_ms=PATIENT_MS)
    each = each.model_copy(update={"budget": BudgetSection(calls=10_000, per_s=60.0)})
    async with replicas(2, each) as proxies, aiohttp.ClientSession() as client:
        origin = round_robin(proxies)
        figures = await run(trace[:CRAWLS], lookalike.catalogue, lambda: list_calls(lookalike), lambda _: origin)
        failures = await metric(client, proxies, "ims_proxy_store_errors_total")
    say(f"{url.partition(':')[0]}: {figures}")
    assert not figures.wrong
    assert figures.calls_per_listing <= MOST_CALLS_A_LISTING
    assert failures == 0
