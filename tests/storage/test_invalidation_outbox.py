"""Invalidations that are yet to be told: none is forgotten, whatever happens while it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from proxy.errors import StoreUnavailableError
from proxy.storage.invalidation_outbox import InvalidationOutbox, PendingChanges

WITHIN_S = 30.0


@pytest.mark.parametrize("error", [ValueError("not enough values to unpack"), TypeError(), StoreUnavailableError("")])
async def test_invalidation_is_told_again_after_a_reply_that_makes_no_sense(error: Exception) -> None:
    """Otherwise the next write's would take its place, and other replicas would go on showing what was before it."""
    told: list[str] = []
    errors = [error]

    async def tell(owed: Mapping[str, PendingChanges]) -> None:
        if errors:
            raise errors.pop()
        told.extend(owed)

    debts = InvalidationOutbox(tell)
    try:
        await debts.add(["one"], pending=PendingChanges(), wait_s=0.0)
        async with asyncio.timeout(WITHIN_S):
            await debts.add(["other"], pending=PendingChanges(), wait_s=WITHIN_S)
        assert sorted(told) == ["one", "other"]
        assert not debts
    finally:
        await debts.close()
