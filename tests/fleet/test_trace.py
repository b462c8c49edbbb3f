"""What the fleet trace costs the upstream, through one proxy and through several."""

from __future__ import annotations

from proxy.demo.server import Lookalike
from tests.fleet.conftest import Say
from tests.fleet.replicas import list_calls, replicas, round_robin, settings
from tests.fleet.trace import Crawl, Figures, run
from tests.harness.redis import RedisServer

MOST_CALLS_A_LISTING = 2.5
SLACK_OF_REPLICAS = 1.05
PATIENT_MS = 2000.0  # one process runs the fleet, all its replicas and the upstream: it is late where Redis is not


async def cost(lookalike: Lookalike, trace: list[Crawl], *, number: int, store: str) -> Figures:
    """Return what *trace* costs through *number* replicas that take requests in turn."""
    lookalike.forget()
    each = settings(lookalike.base_url, store=store, timeout_ms=PATIENT_MS)
    async with replicas(number, each) as proxies:
        origin = round_robin(proxies)
        return await run(trace, lookalike.catalogue, lambda: list_calls(lookalike), lambda _: origin)


async def test_the_trace_costs_few_calls_and_no_more_through_replicas(
    lookalike: Lookalike, trace: list[Crawl], redis: RedisServer, say: Say
) -> None:
    """A listing costs a partition at most two and a half upstream calls, and replicas cost no more than one."""
    alone = await cost(lookalike, trace, number=1, store="memory://")
    say(f"1 replica: {alone}\n{alone.breakdown()}")
    assert not alone.wrong
    assert alone.calls_per_listing <= MOST_CALLS_A_LISTING
    for number in (2, 4):
        figures = await cost(lookalike, trace, number=number, store=f"redis://127.0.0.1:{redis.port}/{number}")
        say(f"{number} replicas: {figures}")
        assert not figures.wrong
        assert figures.upstream_calls <= alone.upstream_calls * SLACK_OF_REPLICAS
