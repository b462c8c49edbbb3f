"""Whole proxies under a budget, before the look-alike with the fleet's catalogue."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache

from proxy.config.model import BudgetSection, Settings
from proxy.demo.app import ImsLookalike
from proxy.demo.catalogue import Catalogue
from proxy.demo.image import Image
from proxy.demo.throttle import ThrottlePolicy
from tests.support import trace


@cache
def _images() -> list[Image]:
    return list(trace.catalogue())


@asynccontextmanager
async def upstream(throttle: ThrottlePolicy | None = None, *, latency_s: float = 0.0) -> AsyncIterator[ImsLookalike]:
    """Run the look-alike."""
    async with ImsLookalike(Catalogue(_images()), trace.TOKENS, throttle=throttle, latency_s=latency_s) as running:
        yield running


def budgeted(base: Settings, **budget: object) -> Settings:
    """Return *base* with the settings *budget*."""
    return base.model_copy(update={"budget": BudgetSection.model_validate(budget)})


def provoked(lookalike: ImsLookalike) -> int:
    """Return how many calls the upstream refused as too many."""
    return sum(call.status == 429 for call in lookalike.calls)
