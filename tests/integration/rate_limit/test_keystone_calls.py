"""What is asked of IAM counts as well: whole proxies before look-alikes of both, which log what came."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from proxy.demo.app import ImsLookalike
from proxy.demo.filters import Caller
from proxy.demo.seed import ALPHA_PROJECT, make_demo_catalogue
from tests.support.iam import IamLookalike, of_project
from tests.support.running import a_proxy

TOKENS = [f"token-{number}" for number in range(12)]
LIST = "/v2/images?limit=5"


@pytest.fixture
async def upstream() -> AsyncIterator[ImsLookalike]:
    """The look-alike of IMS, which knows all tokens as one project's."""
    async with ImsLookalike(
        make_demo_catalogue(30), {token: Caller("u", ALPHA_PROJECT) for token in TOKENS}
    ) as lookalike:
        yield lookalike


@pytest.fixture
async def iam() -> AsyncIterator[IamLookalike]:
    """The look-alike of IAM, which does so too."""
    async with IamLookalike({token: of_project(ALPHA_PROJECT) for token in TOKENS}) as lookalike:
        yield lookalike


async def test_verdicts_count_towards_the_one_budget_for_all(upstream: ImsLookalike, iam: IamLookalike) -> None:
    """With five calls for everything, lists and verdicts together are five, however many tokens come."""
    identity = {"mode": "project", "iam_url": iam.url}
    budget = {"calls": 5, "per_s": 600, "scope": "upstream", "max_wait_s": 10}
    async with a_proxy(upstream.base_url, identity=identity, budget=budget) as proxy:
        answers = await asyncio.gather(*(proxy.client.ask(LIST, token=token) for token in TOKENS))
        asked = await proxy.metric('ims_proxy_upstream_calls_total{purpose="iam",status="200"}')
    assert len(iam.validated) + len(upstream.calls) == 5
    assert asked == len(iam.validated) > 0
    assert {answer.status for answer in answers} <= {200, 429}


async def test_beside_budgets_of_partitions_iam_has_one_of_its_own(upstream: ImsLookalike, iam: IamLookalike) -> None:
    """A flood of tokens takes IAM's calls and no more; whose verdict can't be had in time goes through, uncached."""
    identity = {"mode": "project", "iam_url": iam.url}
    budget = {"calls": 3, "per_s": 600, "max_wait_s": 10}
    async with a_proxy(upstream.base_url, identity=identity, budget=budget) as proxy:
        answers = [await proxy.client.ask(LIST, token=token) for token in TOKENS]
    assert len(iam.validated) == 3
    assert [answer.status for answer in answers] == [200] * len(TOKENS)
    assert sum(answer.hit for answer in answers) == 2
    assert sum("detail=token-unverified" in answer.cache_status for answer in answers) == len(TOKENS) - 3


async def test_an_iam_that_says_too_many_is_left_alone(upstream: ImsLookalike, iam: IamLookalike) -> None:
    """After its 429 the next tokens don't ask; the image API's own calls are not held up by that."""
    iam.failing = 429
    async with a_proxy(
        upstream.base_url, identity={"mode": "project", "iam_url": iam.url}, budget={"max_wait_s": 10}
    ) as proxy:
        answers = [await proxy.client.ask(LIST, token=token) for token in TOKENS]
    assert [answer.status for answer in answers] == [200] * len(TOKENS)
    assert len(iam.validated) == 1
