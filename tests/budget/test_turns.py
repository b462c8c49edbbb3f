"""The queue before the upstream: who need not wait, and who may not overtake."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry

from proxy.core.budget import Allowance
from proxy.core.claimant import Claimant, Priority
from proxy.errors import TooManyCallsError
from proxy.stores.ledger import MemoryLedger
from proxy.upstream.lines import Turn
from proxy.upstream.metrics import ShieldMetrics
from proxy.upstream.turns import Turns

SOMEBODY = Claimant(caller="a")
LONG_S = 60.0


def queue(allowance: Allowance | None = None, *, most: int = 1, clock: Callable[[], float] = time.monotonic) -> Turns:
    metrics = ShieldMetrics(CollectorRegistry())
    return Turns(MemoryLedger(allowance, hold_s=1.0, clock=clock), most=most, hold_s=1.0, clock=clock, metrics=metrics)


def at_once(turns: Turns, claimant: Claimant = SOMEBODY) -> Turn:
    """Return the turn that is given before anything else runs."""
    asking = turns.turn("s", claimant, deadline=time.monotonic() + LONG_S)
    with pytest.raises(StopIteration) as given:
        asking.send(None)
    turn = given.value.value
    assert isinstance(turn, Turn)
    return turn


def test_who_need_not_wait_does_not_wait() -> None:
    """Where a call and a permit are free and nobody waits, a turn costs neither a task nor a round of the loop."""
    turns = queue()
    turn = at_once(turns)
    assert turn.permitted
    assert turns.permits.under_way == 1
    assert not at_once(turns, Claimant(Priority.WRITE)).permitted


async def test_a_call_that_is_had_at_once_counts() -> None:
    """The budget's last call is nobody else's, and its permit is given back where there was no call."""
    turns = queue(Allowance(1, LONG_S), most=9)
    at_once(turns)
    with pytest.raises(TooManyCallsError):
        await turns.turn("s", Claimant(patient=False), deadline=time.monotonic() + LONG_S)
    assert turns.permits.under_way == 1


async def test_a_turn_that_comes_too_late_takes_no_permit_with_it() -> None:
    """Where the process stood still between a grant and its use, another turn is had, and one permit for both."""
    now = time.monotonic()
    turns = queue(clock=lambda: now)
    first = at_once(turns)
    waiting = asyncio.create_task(turns.turn("s", SOMEBODY, deadline=now + LONG_S))
    await asyncio.sleep(0)
    turns.permits.give_back()
    turns.over(first)
    async with asyncio.timeout(LONG_S):
        while not turns.permits.under_way:
            await asyncio.sleep(0)
        now += 1.0
        assert (await waiting).given_at == now
    assert turns.permits.under_way == 1


async def test_nobody_overtakes_who_waits() -> None:
    """A permit that is given back is for who waits for it, not for who comes in that moment, of whatever budget."""
    turns = queue()
    first = at_once(turns)
    order: list[str] = []

    async def asks(who: str, scope: str) -> Turn:
        turn = await turns.turn(scope, Claimant(caller=who), deadline=time.monotonic() + LONG_S)
        order.append(who)
        return turn

    async with asyncio.timeout(LONG_S), asyncio.TaskGroup() as group:
        waiting = group.create_task(asks("waits", "s"))
        for _ in range(9):  # as many rounds of the loop as it takes to stand in line, and some more
            await asyncio.sleep(0)
        late = group.create_task(asks("comes late", "another"))  # which runs before who is woken by the next line
        turns.permits.give_back()
        turns.over(first)
        turns.over(await waiting)
        turns.permits.give_back()
        turns.over(await late)
    assert order == ["waits", "comes late"]
