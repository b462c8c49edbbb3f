"""The ledger of a replica that loses Redis: its part of what was left at once, or none before what was called is over.

What Redis does is real, and its clock too; replicas go by a clock that the test moves.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from proxy.core.call_context import Priority
from proxy.ratelimit.memory_store import MemoryRateLimitStore, StoreOutage
from proxy.ratelimit.redis_store import OUTAGE_NOTICED_S, RedisRateLimitStore
from proxy.ratelimit.sliding_window import AdvertisedLimit, Granted, RateLimit, Wait
from proxy.storage.redis import RedisStore, connect
from tests.support.rate_limit_stores import PREFIX, Unguarded
from tests.support.redis import RedisServer
from tests.support.windows import most_in_a_window

TEN = RateLimit(10, 60.0)
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

    async def replica(
        self,
        name: str,
        peers: frozenset[str] = PEERS,
        *,
        mode: Literal["share", "hold"] = "share",
        allowance: RateLimit | None = TEN,
    ) -> RedisRateLimitStore:
        def clock() -> float:
            return self.now

        ledger = RedisRateLimitStore(
            self.store,
            MemoryRateLimitStore(allowance, hold_s=HOLD_S, clock=clock),
            allowance,
            name=name,
            peers=lambda: peers,
            in_touch=lambda: self.in_touch,
            notice_s=1.0,
            hold_s=HOLD_S,
            breaker=Unguarded(),
            timeout_s=1.0,
            without_store=mode,
            on_outage=("s",),
            clock=clock,
            in_background=False,
        )
        await ledger.start()
        ledger.note_connected()
        return ledger

    async def replicas(self, *, mode: Literal["share", "hold"] = "share") -> list[RedisRateLimitStore]:
        return [await self.replica(name, mode=mode) for name in sorted(PEERS)]

    async def taken(self, ledger: RedisRateLimitStore, count: int = 20) -> int:
        """Return how many calls *ledger* grants; each ends at once."""
        granted = 0
        for _ in range(count):
            verdict = await ledger.take("s", Priority.WRITE)
            if isinstance(verdict, Granted):
                ledger.report("s", verdict.lease)
                self.granted.append(self.now)
                granted += 1
        await ledger.close()
        return granted


async def maintained(ledgers: list[RedisRateLimitStore]) -> None:
    """Let *ledgers* do what they do in the background."""
    for ledger in ledgers:
        await ledger.maintain()


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    """A fleet on a Redis of its own."""
    with RedisServer(tmp_path) as server:
        store = connect(server.url, prefix=PREFIX, keep_s=60, timeout_s=1.0)
        yield Fleet(server, store)
        await store.close()


async def test_replicas_that_lose_redis_share_what_was_left_at_once(fleet: Fleet) -> None:
    """Of ten calls four were made: two for each of three, and as those four expire, the rest."""
    ledgers = await fleet.replicas()
    assert await fleet.taken(ledgers[0], 4) == 4
    fleet.now += 30.0
    await maintained(ledgers)
    fleet.server.kill()
    assert [await fleet.taken(each) for each in ledgers] == [2, 2, 2]
    fleet.now += 35.0  # Redis goes by its own clock, by which no time has passed since the calls
    assert [await fleet.taken(each) for each in ledgers] == [0, 0, 0]
    fleet.now += 28.0
    assert [await fleet.taken(each) for each in ledgers] == [4, 3, 3]
    assert most_in_a_window(fleet.granted, 60.0) == 10


async def test_what_was_called_becomes_free_again_part_by_part(fleet: Fleet) -> None:
    """Five calls before Redis went and five 30 s later: when the first expire there are five again."""
    ledger = await fleet.replica("r0", frozenset({"r0"}))
    assert await fleet.taken(ledger, 5) == 5
    fleet.server.kill()
    fleet.now += 30.0
    assert await fleet.taken(ledger) == 5
    verdict = await ledger.take("s", Priority.WRITE)
    assert isinstance(verdict, Wait)
    assert 30.0 < verdict.wait_s < 33.0
    fleet.now += verdict.wait_s + 0.1
    assert await fleet.taken(ledger) == 5
    assert most_in_a_window(fleet.granted, 60.0) == 10


async def test_a_call_that_nobody_was_told_of_may_be_made_again_by_the_others_parts(fleet: Fleet) -> None:
    """The stated bound is reached where one takes all after the others have heard last, and not passed."""
    ledgers = await fleet.replicas()
    assert await fleet.taken(ledgers[0]) == 10
    fleet.server.kill()
    assert [await fleet.taken(each) for each in ledgers] == [0, 3, 3]
    assert most_in_a_window(fleet.granted, 60.0) == 16 <= 10 + 2 * 4


async def test_replicas_that_never_heard_each_other_share_all_the_same(fleet: Fleet) -> None:
    """Where none may listen, who asked Redis for calls counts."""
    ledgers = [await fleet.replica(name, frozenset({name})) for name in ("r0", "r1")]
    await maintained(ledgers)
    fleet.server.kill()
    assert [await fleet.taken(each) for each in ledgers] == [5, 5]
    fleet.now += 100.0
    fleet.server.start()
    await ledgers[0].maintain()
    assert await fleet.taken(ledgers[0]) == 5, "the other may not have noticed yet"


async def test_a_limit_that_was_learnt_is_shared_too(fleet: Fleet) -> None:
    """Without a budget of ours, what the upstream said holds without Redis, and again in one that came back empty."""
    ledgers = [await fleet.replica(name, allowance=None) for name in sorted(PEERS)]
    verdict = await ledgers[0].take("s", Priority.WRITE)
    assert isinstance(verdict, Granted)
    ledgers[0].report("s", verdict.lease, advertised=[AdvertisedLimit("user", TEN)])
    await ledgers[0].close()
    assert await fleet.taken(ledgers[1], 1) == 1
    assert await fleet.taken(ledgers[2], 1) == 1
    await ledgers[0].take("s", Priority.WRITE)
    await maintained(ledgers)
    fleet.server.kill()
    assert [await fleet.taken(each, 4) for each in ledgers] == [2, 2, 2]
    fleet.server.start()
    await maintained(ledgers)
    fleet.now += OUTAGE_NOTICED_S
    assert [await fleet.taken(each) for each in ledgers] == [0, 0, 0]
    assert [each.advertised_limits("s") for each in ledgers] == [{"user": TEN}] * 3


async def test_a_redis_that_comes_back_empty_is_told_what_was_called(fleet: Fleet) -> None:
    """Before and without Redis: then it counts on as if it had never been away, and no period is lost."""
    ledgers = await fleet.replicas()
    assert [await fleet.taken(each, 1) for each in ledgers] == [1, 1, 1]
    await maintained(ledgers)
    fleet.server.kill()
    assert [await fleet.taken(each, 1) for each in ledgers] == [1, 1, 1]
    fleet.server.start()
    await maintained(ledgers)
    assert await fleet.taken(ledgers[0]) == 2, "its part of what was left, until the others must have been here"
    fleet.now += OUTAGE_NOTICED_S
    assert await fleet.taken(ledgers[1]) == 2, "all that is left, whose ever part it was"
    assert [await fleet.taken(each) for each in ledgers] == [0, 0, 0]
    assert most_in_a_window(fleet.granted, 60.0) == 10


async def test_a_redis_that_was_emptied_unnoticed_is_told_too(fleet: Fleet) -> None:
    """It is another life, whoever asks finds out, and goes by its part until all have told what they called."""
    ledgers = await fleet.replicas()
    assert await fleet.taken(ledgers[0], 4) == 4
    await maintained(ledgers)
    await fleet.store.redis.flushall()
    assert await fleet.taken(ledgers[1]) == 2
    await maintained(ledgers)
    fleet.now += OUTAGE_NOTICED_S
    assert await fleet.taken(ledgers[2]) == 4
    assert most_in_a_window(fleet.granted, 60.0) == 10


async def test_a_redis_that_stood_still_lacks_nothing_and_counts_nothing_twice(fleet: Fleet) -> None:
    """What it was asked last, and nobody heard the answer to, is not counted; what was called meanwhile is."""
    ledgers = await fleet.replicas()
    assert await fleet.taken(ledgers[0], 2) == 2
    await maintained(ledgers)
    fleet.server.pause()
    assert [await fleet.taken(each, 1) for each in ledgers] == [1, 1, 1]
    fleet.server.resume()
    await maintained(ledgers)
    fleet.now += OUTAGE_NOTICED_S
    assert await fleet.taken(ledgers[2]) == 5


async def test_more_calls_than_fit_one_command_are_told_too(fleet: Fleet) -> None:
    """Redis learns of all 1,201 calls of a replica, some hundreds at a time."""
    many = RateLimit(1300, 60.0)
    ledger = await fleet.replica("r0", frozenset({"r0"}), allowance=many)
    fleet.server.kill()
    assert await fleet.taken(ledger, 1201) == 1201
    fleet.server.start()
    await ledger.maintain()
    other = await fleet.replica("r1", frozenset({"r0", "r1"}), allowance=many)
    assert await fleet.taken(other, 100) == 99


async def test_one_warning_names_the_mode_and_one_line_the_end(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    """However long Redis is away."""
    caplog.set_level(logging.INFO, logger="ims_proxy")
    ledger, *_ = await fleet.replicas()
    fleet.server.kill()
    await fleet.taken(ledger, 1)
    for _ in range(5):
        fleet.now += 0.5
        await ledger.maintain()
    assert ledger.store_outage() == StoreOutage("share", 3, 0.0)
    (warning,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert "budget_without_store" in str(warning.__dict__)
    assert "1/3" in str(warning.__dict__)
    fleet.server.start()
    for _ in range(3):
        await ledger.maintain()
    assert ledger.store_outage() is None
    assert sum("budget_store_restored" in str(each.__dict__) for each in caplog.records) == 1


async def test_with_hold_replicas_that_lose_redis_wait_and_then_go_by_their_parts(fleet: Fleet) -> None:
    """One took all before; the others make no call until that is over, and then three, three and four."""
    ledgers = await fleet.replicas(mode="hold")
    assert await fleet.taken(ledgers[0]) == 10
    fleet.now += 1.0
    fleet.server.kill()
    assert [await fleet.taken(ledger) for ledger in ledgers] == [0, 0, 0]
    fleet.now += 61.0
    assert [await fleet.taken(ledger) for ledger in ledgers] == [0, 0, 0]
    fleet.now += 2.0
    assert [await fleet.taken(ledger) for ledger in ledgers] == [4, 3, 3]
    assert most_in_a_window(fleet.granted, 60.0) == 10


async def test_with_hold_a_replica_that_has_been_alone_goes_on_without_a_break(fleet: Fleet) -> None:
    """It knows all that was called: what is left of its budget is there at once, and no more than that."""
    ledger = await fleet.replica("r0", frozenset({"r0"}), mode="hold")
    fleet.now += 100.0
    assert await fleet.taken(ledger, 7) == 7
    fleet.server.kill()
    assert await fleet.taken(ledger) == 3


async def test_with_hold_a_replica_that_has_only_just_been_left_alone_waits(fleet: Fleet) -> None:
    """Another may have called a moment ago."""
    ledger = await fleet.replica("r0", frozenset({"r0"}), mode="hold")
    fleet.server.kill()
    assert await fleet.taken(ledger) == 0
    fleet.now += 63.0
    assert await fleet.taken(ledger) == 10


async def test_with_hold_a_redis_that_comes_back_empty_is_not_believed_at_once(fleet: Fleet) -> None:
    """Who finds it first stays within its part until the others must have found it too."""
    first, second, third = await fleet.replicas(mode="hold")
    assert await fleet.taken(first) == 10
    fleet.server.kill()
    assert await fleet.taken(second) == 0
    fleet.now += 63.0
    assert await fleet.taken(second) == 3
    fleet.server.start()
    await maintained([first, second, third])
    fleet.now += OUTAGE_NOTICED_S
    assert [await fleet.taken(each) for each in (first, third)] == [0, 0], (
        "they notice now, and know less than Redis did"
    )
    await maintained([first, second, third])
    fleet.now += 59.0
    assert await fleet.taken(second) == 3, "still its part, after what it did itself"
    fleet.now += 61.0 + OUTAGE_NOTICED_S + HOLD_S
    assert await fleet.taken(third) > 3, "more than its part: Redis, by whose clock it is still the same minute, grants"
    assert await fleet.taken(first) == 0
    assert most_in_a_window(fleet.granted, 60.0) <= 10


@pytest.mark.parametrize("seen", ["out of touch", "in touch again"])
async def test_with_hold_who_asked_nothing_while_redis_was_away_stays_within_its_part_too(
    fleet: Fleet, seen: str
) -> None:
    """A Redis that stood still and goes on with what it had logged lacks what others called from their parts."""
    asking, idle, _ = await fleet.replicas(mode="hold")
    fleet.server.pause()
    fleet.in_touch = False
    assert await fleet.taken(asking, 1) == 0
    fleet.now += 63.0
    assert await fleet.taken(asking) == 4
    fleet.server.resume()
    if seen == "in touch again":
        fleet.in_touch = True
        idle.note_connected()
    assert await fleet.taken(idle) == 3
    fleet.in_touch = True
    fleet.now += OUTAGE_NOTICED_S + HOLD_S + 61.0
    assert await fleet.taken(idle) > 3
    assert most_in_a_window(fleet.granted, 60.0) <= 10


async def test_reply_that_makes_no_sense_is_taken_for_an_outage_that_ends(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call is granted from the replica's own part, and Redis grants the next once it knows what was called."""
    ledger = await fleet.replica("r0", frozenset({"r0"}))
    budgeted, altered = fleet.store.run_rate_limit_script, 0

    async def short(scope: str, order: bytes, *, store_run: bytes, known: bytes = b"") -> tuple[bytes, Any]:
        nonlocal altered
        kept, said = await budgeted(scope, order, store_run=store_run, known=known)
        altered += 1
        return kept, said[:3]

    with monkeypatch.context() as patch:
        patch.setattr(fleet.store, "run_rate_limit_script", short)
        assert isinstance(await ledger.take("s", Priority.INTERACTIVE), Granted)
        assert altered
        assert ledger.store_outage() is not None
    await ledger.maintain()
    assert ledger.store_outage() is None
    assert isinstance(await ledger.take("s", Priority.INTERACTIVE), Granted)
