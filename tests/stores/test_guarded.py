"""The guard: a store that hangs or fails costs its time limit, then nothing until it is probed."""

from __future__ import annotations

import asyncio
import logging

import pytest

from proxy.errors import StoreUnavailableError
from proxy.stores.guarded import Guard

TIMEOUT_S = 0.02


class Scripted:
    """A guarded operation that does what it is told to, and a clock held by hand."""

    def __init__(self) -> None:
        self.calls = 0
        self.now = 100.0
        self.told: list[str] = []
        self.guard = Guard(timeout_s=TIMEOUT_S, clock=lambda: self.now, failed=self.told.append)

    async def works(self) -> int:
        self.calls += 1
        return self.calls

    async def fails(self) -> int:
        self.calls += 1
        raise StoreUnavailableError("away")

    async def hangs(self) -> int:
        self.calls += 1
        return await asyncio.Future()

    async def refused(self) -> bool:
        """Whether a call fails without being made."""
        before = self.calls
        with pytest.raises(StoreUnavailableError):
            await self.guard.call("get", self.works)
        return self.calls == before


@pytest.fixture
def scripted() -> Scripted:
    return Scripted()


async def test_a_store_that_works_is_asked(scripted: Scripted) -> None:
    """Results pass through, and nothing is told to have failed."""
    assert [await scripted.guard.call("get", scripted.works) for _ in range(3)] == [1, 2, 3]
    assert scripted.told == []


async def test_a_store_that_fails_is_left_alone(scripted: Scripted) -> None:
    """After an error no call is made for a while."""
    with pytest.raises(StoreUnavailableError):
        await scripted.guard.call("get", scripted.fails)
    assert scripted.told == ["get"]
    assert all([await scripted.refused() for _ in range(5)])
    scripted.now += 60
    assert scripted.guard.asks
    assert not scripted.guard.well
    await scripted.guard.call("get", scripted.works)
    assert scripted.guard.well
    assert scripted.told == ["get"]


async def test_a_store_that_hangs_costs_its_time_limit_and_then_nothing(scripted: Scripted) -> None:
    """Of fifty calls to a store that answers nobody, two are made, and each ends at the limit."""
    async with asyncio.timeout(30):
        for _ in range(50):
            with pytest.raises(StoreUnavailableError):
                await scripted.guard.call("get", scripted.hangs)
    assert scripted.calls <= 2


async def test_after_the_pause_one_call_is_the_probe(scripted: Scripted) -> None:
    """While it is under way others are refused at once; when it works the store is asked again."""
    with pytest.raises(StoreUnavailableError):
        await scripted.guard.call("get", scripted.fails)
    scripted.now += 60
    gate = asyncio.Event()
    probing = asyncio.Event()

    async def gated() -> str:
        probing.set()
        await gate.wait()
        return "back"

    probe = asyncio.create_task(scripted.guard.call("get", gated, timeout_s=5.0))
    await probing.wait()
    assert all([await scripted.refused() for _ in range(5)])
    gate.set()
    assert await probe == "back"
    assert await scripted.guard.call("get", scripted.works) == scripted.calls


async def test_a_probe_that_hangs_closes_again(scripted: Scripted) -> None:
    """One time-out of the probe is enough."""
    with pytest.raises(StoreUnavailableError):
        await scripted.guard.call("get", scripted.fails)
    scripted.now += 60
    with pytest.raises(StoreUnavailableError):
        await scripted.guard.call("get", scripted.hangs)
    assert await scripted.refused()


async def test_pauses_grow_within_bounds_and_begin_anew(scripted: Scripted) -> None:
    """A store that stays away is probed ever more rarely, up to some seconds; one that came back starts over."""

    async def pause_s() -> float:
        with pytest.raises(StoreUnavailableError):
            await scripted.guard.call("get", scripted.fails)
        closed_at = scripted.now
        while not scripted.guard.asks:
            scripted.now += 0.05
        return round(scripted.now - closed_at, 1)

    pauses = [await pause_s() for _ in range(12)]
    assert pauses == sorted(pauses)
    assert pauses[0] < 1 < pauses[-1] < 30
    await scripted.guard.call("get", scripted.works)
    assert await pause_s() == pauses[0]


async def test_an_outage_is_logged_when_it_begins_and_when_it_ends(
    scripted: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    """One line for the second failure in a row, none for those after it, and one when the store is back."""
    caplog.set_level(logging.INFO, logger="ims_proxy")
    for outcome, said in [
        (scripted.fails, []),
        (scripted.works, []),
        (scripted.fails, []),
        (scripted.fails, ["store-away"]),
        (scripted.fails, ["store-away"]),
        (scripted.works, ["store-away", "store-back"]),
    ]:
        await asyncio.gather(scripted.guard.call("get", outcome), return_exceptions=True)
        scripted.now += 60
        assert [each.getMessage() for each in caplog.records] == said


@pytest.mark.parametrize("reason", ["away", "no answer in time"])
async def test_an_outage_is_logged_with_its_reason(
    scripted: Scripted, caplog: pytest.LogCaptureFixture, reason: str
) -> None:
    """A password that Redis does not take looks otherwise than a Redis that is slow or gone."""
    for _ in range(2):
        with pytest.raises(StoreUnavailableError):
            await scripted.guard.call("get", scripted.fails if reason == "away" else scripted.hangs)
        scripted.now += 60
    assert [each.__dict__["event_fields"] for each in caplog.records] == [{"operation": "get", "reason": reason}]


async def test_a_single_time_out_is_the_last_call_for_a_while(scripted: Scripted) -> None:
    """A request asks the store several times, and waits for it once (law 7)."""
    with pytest.raises(StoreUnavailableError):
        await scripted.guard.call("get", scripted.hangs)
    assert not scripted.guard.asks


async def test_a_caller_that_hangs_up_is_no_failure(scripted: Scripted) -> None:
    """A cancelled call says nothing about the store."""
    call = asyncio.create_task(scripted.guard.call("get", scripted.hangs, timeout_s=5.0))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert scripted.told == []
    assert await scripted.guard.call("get", scripted.works)
