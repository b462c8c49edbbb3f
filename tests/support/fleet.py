"""The upstream and the Redis that a fleet stands on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from proxy.demo.app import ImsLookalike
from proxy.demo.catalogue import Catalogue
from proxy.demo.image import Image
from tests.support.redis import RedisServer
from tests.support.trace import TOKENS, Crawl, catalogue, crawls


@pytest.fixture(scope="session")
def every_image() -> list[Image]:
    """The images of the trace, made once."""
    return list(catalogue())


@pytest.fixture(scope="session")
def trace() -> list[Crawl]:
    """The whole trace."""
    return crawls()


@pytest.fixture
async def lookalike(every_image: list[Image]) -> AsyncIterator[ImsLookalike]:
    """The upstream, with a catalogue that the test may change."""
    async with ImsLookalike(Catalogue(every_image), TOKENS) as started:
        yield started


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A server of the test's own, to kill, freeze and restart."""
    with RedisServer(tmp_path) as running:
        yield running
