"""The ledger of a replica that loses Redis: its part of the budget, and not before what was called is over."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from proxy.stores.guarded import LONGEST_PAUSE_S

from proxy.core.budget import Allowance, Taken
from proxy.core.claimant import Priority
from proxy.stores.ledger import MemoryLedger
from proxy.stores.redis import RedisStore, connected
from proxy.stores.shared_ledger import SharedLedger
from tests.budget.conftest import PREFIX
from tests.budget.windows import most_in_a_window
from tests.harness.redis import RedisServer

TEN = Allowance(10, 60.0)
HOLD_S = 2.0
PEERS = frozenset({"r0", "r1", "r2"})


@dataclass
class Fleet:
    """Replicas on one Redis, and a clock that all of them but Redis go by."""

    server: RedisServer
    store: RedisStore
    now: float = 1000.0
    in_touch: bool = True
    granted: list[float] = field(default_factory=list)

    async def replica(self, name: str, peers: frozenset[str] = PEERS) -> SharedLedger:
        def clock() -> float:
            return self.now

        ledger = SharedLedger(
            self.store,
            MemoryLedger(TEN, hold_s=HOLD_S, clock=clock),
            TEN,
            name=name,
            peers=lambda: peers,
            in_touch=lambda: self.in_touch,
            notice_s=1.0,
            hold_s=HOLD_S,
            timeout_s=5.0,
            failed=lambda _: None,
            clock=clock,
        )
        await ledger.start()
        ledger.listening()
        return ledger

    async def taken(self, ledger: SharedLedger, count: int = 20) -> int:
        """Return how many calls *ledger* grants; each ends at once."""
        granted = 0
        for _ in range(count):
            verdict = await ledger.take("s", Priority.WRITE)
            if isinstance(verdict, Taken):
                ledger.report("s", verdict.lease)
                self.granted.append(self.now)
                granted += 1
        await ledger.close()
        return granted


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    """A fleet on a Redis of its own."""
    with RedisServer(tmp_path) as server:
        store = connected(server.url, prefix=PREFIX, keep_s=60, timeout_s=1.0)
        yield Fleet(server, store)
        await store.close()


async def test_replicas_that_lose_redis_wait_and_then_go_by_their_parts(fleet: Fleet) -> None:
    """One took all before; the others make no call until that is over, and then three, three and four."""
    ledgers = [await fleet.replica(name) for name in sorted(PEERS)]
    assert await fleet.taken(ledgers[0]) == 10
    fleet.now += 1.0
    fleet.server.kill()
    assert [await fleet.taken(ledger) for ledger in ledgers] == [0, 0, 0]
    fleet.now += 61.0
    assert [await fleet.taken(ledger) for ledger in ledgers] == [0, 0, 0]
    fleet.now += 2.0
    assert [await fleet.taken(ledger) for ledger in ledgers] == [4, 3, 3]
    assert most_in_a_window(fleet.granted, 60.0) == 10


async def test_a_replica_that_has_been_alone_goes_on_without_a_break(fleet: Fleet) -> None:
    """It knows all that was called: what is left of its budget is there at once, and no more than that."""
    ledger = await fleet.replica("r0", frozenset({"r0"}))
    fleet.now += 100.0
    assert await fleet.taken(ledger, 7) == 7
    fleet.server.kill()
    assert await fleet.taken(ledger) == 3


async def test_a_replica_that_has_only_just_been_left_alone_waits(fleet: Fleet) -> None:
    """Another may have called a moment ago."""
    ledger = await fleet.replica("r0", frozenset({"r0"}))
    fleet.server.kill()
    assert await fleet.taken(ledger) == 0
    fleet.now += 63.0
    assert await fleet.taken(ledger) == 10


async def test_a_redis_that_comes_back_empty_is_not_believed_at_once(fleet: Fleet) -> None:
    """Who finds it first stays within its part until the others must have found it too."""
    first, second, third = [await fleet.replica(name) for name in sorted(PEERS)]
    assert await fleet.taken(first) == 10
    fleet.server.kill()
    assert await fleet.taken(second) == 0
    fleet.now += 63.0
    assert await fleet.taken(second) == 3
    fleet.server.start()
    fleet.now += LONGEST_PAUSE_S
    assert [await fleet.taken(each) for each in (first, third)] == [0, 0], (
        "they notice now, and know less than Redis did"
    )
    fleet.now += 56.0
    assert await fleet.taken(second) == 3, "still its part, after what it did itself"
    fleet.now += 61.0 + LONGEST_PAUSE_S + HOLD_S
    assert await fleet.taken(third) > 4, "more than its part: Redis, by whose clock it is still the same minute, grants"
    assert await fleet.taken(first) == 0
    assert most_in_a_window(fleet.granted, 60.0) <= 10


@pytest.mark.parametrize("seen", ["out of touch", "in touch again"])
async def test_who_asked_nothing_while_redis_was_away_stays_within_its_part_too(fleet: Fleet, seen: str) -> None:
    """A Redis that stood still and goes on with what it had logged lacks what others called from their parts."""
    asking, idle, _ = [await fleet.replica(name) for name in sorted(PEERS)]
    fleet.server.pause()
    fleet.in_touch = False
    assert await fleet.taken(asking, 1) == 0
    fleet.now += 63.0
    assert await fleet.taken(asking) == 4
    fleet.server.resume()
    if seen == "in touch again":
        fleet.in_touch = True
        idle.listening()
    assert await fleet.taken(idle) == 3
    fleet.in_touch = True
    fleet.now += LONGEST_PAUSE_S + HOLD_S + 61.0
    assert await fleet.taken(idle) > 3
    assert most_in_a_window(fleet.granted, 60.0) <= 10
