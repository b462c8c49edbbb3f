"""What the fleet trace costs the upstream, through one proxy and through several."""

from __future__ import annotations

from collections import Counter

from proxy.demo.server import Lookalike
from proxy.web.app import Running
from tests.conftest import Say
from tests.fleet.replicas import list_calls, replicas, round_robin, settings
from tests.fleet.trace import TOKENS, Crawl, Figures, run
from tests.harness.iam import IamLookalike, of_project
from tests.harness.redis import RedisServer

MOST_CALLS_A_LISTING = 2.5
MOST_CALLS_BY_PROJECT = 80
CRAWLS_BY_PROJECT = 120  # the first that make 1,600 requests
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


async def test_by_project_the_trace_costs_eighty_calls_and_through_another_replica_none(
    lookalike: Lookalike, trace: list[Crawl], redis: RedisServer, say: Say
) -> None:
    """Four callers of a project share what one of them fetched; IAM vouches for each once, in each replica it asks.

    In an order in which images move a page comes from one span, and of many that overlap the store knows two: there a
    page may be lacking that was there before. Everywhere else another replica has all of them.
    """
    tokens = {name: of_project(caller.project, user=caller.user) for name, caller in TOKENS.items()}
    async with IamLookalike(tokens) as iam:

        async def through(proxies: list[Running]) -> Figures:
            lookalike.forget()
            iam.validated.clear()
            figures = await run(
                trace[:CRAWLS_BY_PROJECT],
                lookalike.catalogue,
                lambda: list_calls(lookalike),
                lambda crawl: lambda _: proxies[crawl.number % len(proxies)].url,
            )
            say(f"by project, {len(proxies)} replicas: {figures}; {len(iam.validated)} verdicts")
            assert not figures.wrong
            assert max(Counter(iam.validated).values()) <= len(proxies)
            return figures

        each = settings(lookalike.base_url, store=redis.url, timeout_ms=PATIENT_MS, iam_url=iam.url)
        async with replicas(2, each) as proxies:
            first = await through(proxies)
            assert first.requests >= 1_600
            assert first.upstream_calls <= MOST_CALLS_BY_PROJECT
            async with replicas(1, each) as another:
                again = await through(another)
        assert all(("sort_key", "name") in listing for _, listing in again.by_listing)
        assert again.upstream_calls <= 1
