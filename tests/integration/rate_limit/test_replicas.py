"""The fleet trace before an upstream that throttles: whole proxies, real sockets, the upstream's own log."""

from __future__ import annotations

import pytest

from proxy.demo.app import ImsLookalike
from proxy.demo.throttle import ThrottlePolicy
from proxy.runtime.app import RunningProxy
from tests.conftest import Say
from tests.support import trace
from tests.support.iam import IamLookalike, of_project
from tests.support.replicas import replicas, settings
from tests.support.throttled_upstreams import budgeted, provoked, upstream

A_SECOND = ThrottlePolicy(limit=20, window_s=1)  # for each project, and 429 beyond, in the words of the gateway
A_HANDFUL = 10  # for five projects, each of which learns its own


async def traced(lookalike: ImsLookalike, proxies: list[RunningProxy]) -> trace.Figures:
    """Run the fleet trace."""
    return await trace.run(
        trace.crawls(),
        lookalike.catalogue,
        lambda: list(lookalike.calls),
        lambda crawl: lambda _: proxies[crawl.number % len(proxies)].url,
    )


@pytest.mark.parametrize("by_project", [False, True], ids=["five for each of its tokens", "twenty for a project"])
async def test_with_a_budget_no_call_of_the_fleet_trace_is_refused(by_project: bool, say: Say) -> None:
    """With as many calls a second as the upstream allows it refuses none, and every answer is right."""
    tokens = {name: of_project(caller.project, user=caller.user) for name, caller in trace.TOKENS.items()}
    async with upstream(A_SECOND) as lookalike, IamLookalike(tokens) as iam:
        base = settings(lookalike.base_url, iam_url=iam.url if by_project else "")
        async with replicas(1, budgeted(base, calls=20 if by_project else 5, per_s=1.0)) as proxies:
            figures = await traced(lookalike, proxies)
    say(f"budget set: {figures}, {provoked(lookalike)} provoked")
    assert figures.wrong == ()
    assert provoked(lookalike) == 0


async def test_without_a_budget_it_is_learnt_and_no_refusal_reaches_a_client(say: Say) -> None:
    """The upstream's own words are enough: a handful are refused on the way, and no caller hears of it."""
    async with upstream(A_SECOND) as lookalike, replicas(1, settings(lookalike.base_url)) as proxies:
        figures = await traced(lookalike, proxies)
    say(f"budget learnt: {figures}, {provoked(lookalike)} provoked")
    assert figures.wrong == ()
    assert provoked(lookalike) <= A_HANDFUL
