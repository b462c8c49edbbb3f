"""The proxy before a look-alike of IMS and one of IAM, and the witness of what went up."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis

from proxy.demo.app import ImsLookalike
from proxy.demo.catalogue import Catalogue
from proxy.demo.image import Image
from proxy.demo.seed import ALPHA_PROJECT, BETA_PROJECT, EMPTY_PROJECT, GOLD_PROJECT, TOKENS, make_demo_catalogue
from tests.support.iam import IamLookalike, of_project
from tests.support.redis import RedisServer

IMAGES = 60
IAM_TOKENS = {
    "demo-token-alpha": of_project(ALPHA_PROJECT, user="demo-user-alpha"),
    "demo-token-alpha-again": of_project(ALPHA_PROJECT, user="demo-user-alpha"),
    "demo-token-alpha-other-user": of_project(ALPHA_PROJECT, user="demo-user-alpha-2"),
    "demo-token-alpha-reader": of_project(ALPHA_PROJECT, user="demo-user-alpha-reader", roles=("reader",)),
    "demo-token-beta": of_project(BETA_PROJECT, user="demo-user-beta"),
    "demo-token-empty": of_project(EMPTY_PROJECT, user="demo-user-empty"),
    "demo-token-ops": of_project(GOLD_PROJECT, user="demo-user-ops", roles=("admin",)),
}
UPSTREAM_TOKENS = {
    **TOKENS,
    "demo-token-alpha-again": TOKENS["demo-token-alpha"],
    "demo-token-alpha-other-user": TOKENS["demo-token-alpha"],
}


@pytest.fixture
async def upstream() -> AsyncIterator[ImsLookalike]:
    """The look-alike of IMS, with images for two projects."""
    async with ImsLookalike(make_demo_catalogue(IMAGES), UPSTREAM_TOKENS) as lookalike:
        yield lookalike


@pytest.fixture
async def iam() -> AsyncIterator[IamLookalike]:
    """The look-alike of IAM, which knows the same tokens."""
    async with IamLookalike(IAM_TOKENS) as lookalike:
        yield lookalike


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A real Redis."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Redis]:
    """A client of a real Redis that is empty."""
    client: Redis = Redis.from_url(redis_server.url)
    await client.flushall()
    yield client
    await client.aclose()


def private_to(catalogue: Catalogue, project: str) -> list[Image]:
    """Return the images that only *project* may see."""
    return [image for image in catalogue if image.owner == project and image.visibility == "private"]
