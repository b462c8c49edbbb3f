"""What the fleet trace costs the upstream, through one proxy and through several."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from proxy.config.model import Settings
from proxy.demo.app import ImsLookalike
from proxy.runtime.app import RunningProxy
from tests.conftest import Say
from tests.support.iam import IamLookalike, of_project
from tests.support.redis import RedisServer
from tests.support.replicas import list_calls, replicas, round_robin, settings
from tests.support.trace import FILTERS, PROJECTS, TOKENS, Crawl, Figures, Origin, run

MOST_CALLS_A_LISTING = 2.5
MOST_CALLS_BY_PROJECT = 80
CRAWLS_BY_PROJECT = 120  # the first that make 1,600 requests
MOVABLE = FILTERS[5]  # the one in an order in which images move: a page of it comes from one span
SLACK_OF_REPLICAS = 1.05
TTL_S = 600.0  # calls are counted here: a slow machine is not to outlast what it fetched


def long_lived(lookalike: ImsLookalike, *, store: str, iam_url: str = "") -> Settings:
    """Return a user's default settings, but for the lifetime of lists."""
    return settings(lookalike.base_url, store=store, ttl_s=TTL_S, iam_url=iam_url)


async def cost(lookalike: ImsLookalike, trace: list[Crawl], *, number: int, store: str) -> Figures:
    """Return what *trace* costs through *number* replicas that take requests in turn."""
    lookalike.clear_recorded_calls()
    each = long_lived(lookalike, store=store)
    async with replicas(number, each) as proxies:
        origin = round_robin(proxies)
        return await run(trace, lookalike.catalogue, lambda: list_calls(lookalike), lambda _: origin)


async def test_the_trace_costs_few_calls_and_no_more_through_replicas(
    lookalike: ImsLookalike, trace: list[Crawl], redis: RedisServer, say: Say
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


def one_each(proxies: list[RunningProxy]) -> Callable[[Crawl], Origin]:
    """Let each crawl stay with one replica."""
    return lambda crawl: lambda _: proxies[crawl.number % len(proxies)].url


def in_turn(proxies: list[RunningProxy]) -> Callable[[Crawl], Origin]:
    """Let each request go to another replica than the one before it."""
    origin = round_robin(proxies)
    return lambda _: origin


Chosen = Callable[[list[RunningProxy]], Callable[[Crawl], Origin]]
Cost = Callable[[list[RunningProxy], list[Crawl], Chosen, random.Random | None], Awaitable[Figures]]


@pytest.fixture
async def by_project(lookalike: ImsLookalike, redis: RedisServer, say: Say) -> AsyncIterator[tuple[Settings, Cost]]:
    """The settings of replicas that share by project, and what a trace costs through some of them."""
    tokens = {name: of_project(caller.project, user=caller.user) for name, caller in TOKENS.items()}
    async with IamLookalike(tokens) as iam:

        async def cost(
            proxies: list[RunningProxy], trace: list[Crawl], chosen: Chosen, dice: random.Random | None
        ) -> Figures:
            lookalike.clear_recorded_calls()
            iam.validated.clear()
            figures = await run(trace, lookalike.catalogue, lambda: list_calls(lookalike), chosen(proxies), dice=dice)
            say(f"by project, {len(proxies)} replicas, {chosen.__name__}: {figures}; {len(iam.validated)} verdicts")
            assert not figures.wrong
            assert max(Counter(iam.validated).values()) <= len(proxies)
            return figures

        yield long_lived(lookalike, store=redis.url, iam_url=iam.url), cost


@pytest.mark.parametrize("chosen", [one_each, in_turn])
async def test_by_project_the_trace_costs_eighty_calls_and_through_another_replica_none(
    by_project: tuple[Settings, Cost], trace: list[Crawl], chosen: Chosen
) -> None:
    """Four callers of a project share what one of them fetched; IAM vouches for each once, in each replica it asks."""
    each, cost = by_project
    trace = trace[:CRAWLS_BY_PROJECT]
    async with replicas(2, each) as proxies:
        first = await cost(proxies, trace, chosen, None)
        assert first.requests >= 1_600
        assert first.upstream_calls <= MOST_CALLS_BY_PROJECT
        async with replicas(1, each) as another:
            again = await cost(another, trace, chosen, None)
    assert again.upstream_calls == 0


@pytest.mark.parametrize("seed", range(4))
async def test_another_replica_has_every_page_in_whatever_order_spans_came(
    by_project: tuple[Settings, Cost], trace: list[Crawl], seed: int
) -> None:
    """Where no page may be joined, each that was given before is given again from one span, asked for in any order."""
    each, cost = by_project
    dice = random.Random(seed)
    movable = [crawl for crawl in trace if crawl.filters == MOVABLE]
    async with replicas(2, each) as proxies:
        first = await cost(proxies, movable, in_turn, dice)
        assert first.upstream_calls > len(PROJECTS)
        async with replicas(2, each) as others:
            again = await cost(others, movable, in_turn, dice)
    assert again.upstream_calls == 0
