"""The log of calls, decision by decision."""

from __future__ import annotations

import time

import pytest

from proxy.core.call_context import Priority
from proxy.ratelimit.sliding_window import (
    AdvertisedLimit,
    CallLog,
    Granted,
    RateLimit,
    Wait,
    apply_advertised,
    end_call,
    left_share,
    start_cooldown,
    take_slot,
)

TWENTY = RateLimit(20, 1.0)
HOLD_S = 5.0


def taken(
    log: CallLog, allowance: RateLimit | None, lease: str, now: float, priority: Priority = Priority.WRITE
) -> CallLog:
    """Return *log* after a call that has to be granted."""
    verdict, log = take_slot(log, allowance, lease=lease, priority=priority, hold_s=HOLD_S, now=now)
    assert isinstance(verdict, Granted), verdict
    return log


def refused(log: CallLog, allowance: RateLimit | None, now: float, priority: Priority = Priority.WRITE) -> Wait:
    """Return how long a call has to wait that must not be granted."""
    verdict, _ = take_slot(log, allowance, lease="refused", priority=priority, hold_s=HOLD_S, now=now)
    assert isinstance(verdict, Wait), verdict
    return verdict


def spent(count: int, *, answered: float, allowance: RateLimit = TWENTY) -> CallLog:
    """Return a log of *count* calls that were answered at *answered*."""
    log = CallLog()
    for number in range(count):
        log = end_call(taken(log, allowance, f"call {number}", answered), f"call {number}", now=answered)
    return log


def test_a_call_counts_from_its_answer_on() -> None:
    """A slot is free again a window after the answer, not after the question."""
    log = taken(CallLog(), RateLimit(1, 1.0), "slow", 100.0)
    log = end_call(log, "slow", now=102.0)
    assert refused(log, RateLimit(1, 1.0), 102.9).wait_s == pytest.approx(0.101)
    taken(log, RateLimit(1, 1.0), "next", 103.01)


def test_a_call_whose_end_is_never_told_counts_as_late_as_it_may_have_arrived() -> None:
    """A process that dies costs its slot for the time a call may be on its way, and no longer."""
    log = taken(CallLog(), RateLimit(1, 1.0), "lost", 100.0)
    assert refused(log, RateLimit(1, 1.0), 105.9).wait_s == pytest.approx(0.101)
    taken(log, RateLimit(1, 1.0), "next", 106.01)


def test_every_limit_holds_at_once() -> None:
    """Ten a second does not lift twelve a minute."""
    log = apply_advertised(CallLog(), AdvertisedLimit("user", RateLimit(12, 60.0)), now=0.0)
    granted = 0
    for now in range(10):
        for number in range(5):
            verdict, log = take_slot(
                log, RateLimit(10, 1.0), lease=f"{now}-{number}", priority=Priority.WRITE, hold_s=1.0, now=float(now)
            )
            granted += isinstance(verdict, Granted)
    assert granted == 12


@pytest.mark.parametrize(
    ("priority", "usable"),
    [
        pytest.param(Priority.WRITE, 20, id="a write may take the last call"),
        pytest.param(Priority.INTERACTIVE, 19, id="a reader leaves one"),
        pytest.param(Priority.BATCH, 19, id="so does a batch"),
        pytest.param(Priority.REVALIDATION, 17, id="revalidation leaves three"),
        pytest.param(Priority.PREFETCH, 14, id="readahead leaves six"),
    ],
)
def test_each_class_leaves_calls_to_those_before_it(priority: Priority, usable: int) -> None:
    """What a class may take of twenty."""
    log = spent(usable - 1, answered=0.0)
    taken(log, TWENTY, "last", 0.5, priority)
    assert refused(spent(usable, answered=0.0), TWENTY, 0.5, priority).wait_s == pytest.approx(0.501)


def test_a_budget_of_one_call_is_of_use_to_everyone() -> None:
    """Reserves round down to nothing."""
    for priority in Priority:
        taken(CallLog(), RateLimit(1, 1.0), "only", 0.0, priority)


def test_no_budget_refuses_nothing() -> None:
    """Without a limit only the gate counts, and nothing is remembered of calls that have ended."""
    log = CallLog()
    for number in range(1000):
        log = end_call(taken(log, None, str(number), float(number)), str(number), now=float(number))
    assert len(log.entries) <= 1


def test_a_closed_gate_opens_for_a_probe_and_then_for_all() -> None:
    """After the time is over one call goes ahead alone, and the others when it has been answered."""
    log = start_cooldown(taken(CallLog(), None, "throttled", 0.0), cooldown_s=10.0, now=0.0)
    assert refused(log, None, 9.0) == Wait(1.0, is_cooldown=True)
    log = taken(log, None, "probe", 10.0)
    assert refused(log, None, 10.5).is_cooldown
    log = end_call(log, "probe", now=11.0)
    taken(taken(log, None, "a", 11.0), None, "b", 11.0)


def test_a_probe_that_is_throttled_closes_the_gate_again() -> None:
    """The end of a probe that closed the gate does not open it."""
    log = taken(start_cooldown(CallLog(), cooldown_s=1.0, now=0.0), None, "probe", 1.0)
    log = end_call(start_cooldown(log, cooldown_s=7.0, now=2.0), "probe", now=2.0)
    assert refused(log, None, 3.0) == Wait(6.0, is_cooldown=True)


def test_a_probe_that_is_lost_is_followed_by_another_alone() -> None:
    """Nobody knows how it ended, so the next one is a probe too."""
    log = taken(start_cooldown(CallLog(), cooldown_s=1.0, now=0.0), None, "lost", 1.0)
    log = taken(log, None, "another", 1.0 + HOLD_S)
    assert refused(log, None, 1.0 + HOLD_S).is_cooldown


def test_what_others_called_counts_as_ours() -> None:
    """Where the upstream has fewer calls left than we know of, somebody else took them."""
    log = apply_advertised(spent(5, answered=0.0), AdvertisedLimit("user", TWENTY, remaining=3), now=0.1)
    assert left_share(log, None, now=0.1) == pytest.approx(3 / 20)
    assert left_share(log, None, now=1.2) == 1.0


def test_calls_that_we_made_ourselves_are_not_counted_twice() -> None:
    """A reading that knows of no more calls than the log changes nothing."""
    log = spent(5, answered=0.0)
    assert apply_advertised(log, AdvertisedLimit("user", TWENTY, remaining=15), now=0.0).entries == log.entries
    assert apply_advertised(log, AdvertisedLimit("user", TWENTY, remaining=20), now=0.0).entries == log.entries


def test_a_clock_that_steps_back_neither_frees_calls_nor_locks_them_for_long() -> None:
    """After a step back of an hour the budget is free one window later, as if the clock had stood still."""
    log = spent(20, answered=3600.0)
    verdict, log = take_slot(log, TWENTY, lease="x", priority=Priority.WRITE, hold_s=HOLD_S, now=0.0)
    assert isinstance(verdict, Wait)
    assert verdict.wait_s == pytest.approx(1.001)
    taken(log, TWENTY, "next", 1.01)


def test_a_limit_of_none_is_nothing_left() -> None:
    """The share that is left falls to 0 and not below."""
    assert left_share(spent(20, answered=0.0), TWENTY, now=0.5) == 0.0
    assert left_share(CallLog(), None, now=0.0) == 1.0


def test_many_calls_of_others_are_noted_in_one_go() -> None:
    """A hundred thousand take a moment, not half a minute, of the time that all callers share."""
    began = time.process_time()
    log = apply_advertised(
        spent(5, answered=0.0), AdvertisedLimit("user", RateLimit(100_000, 60.0), remaining=0), now=0.1
    )
    assert time.process_time() - began < 5.0
    assert len(log.entries) == 100_000
    assert list(log.entries) == sorted(log.entries)
