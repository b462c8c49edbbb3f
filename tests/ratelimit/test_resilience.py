"""Backoff, the share of retries, the breaker, the limit that follows latency, and who is next."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.call_context import CallContext, Priority
from proxy.ratelimit.queue import FairQueue
from proxy.ratelimit.resilience import RetryBudget, UpstreamCircuit, backoff_s


@given(attempt=st.integers(1, 10_000), dice=st.floats(0, 1))
def test_backoff_is_fully_jittered_and_bounded(attempt: int, dice: float) -> None:
    """A pause lies between nothing and the longest, in proportion to the dice."""
    assert 0 <= backoff_s(attempt, rng=dice) <= 5.0
    assert backoff_s(attempt, rng=dice) == pytest.approx(dice * backoff_s(attempt, rng=1.0))


@given(moves=st.lists(st.booleans(), max_size=300))
def test_retries_are_a_share_of_the_traffic(moves: list[bool]) -> None:
    """However calls and retries alternate, retries are at most a fifth of the calls, and ten to begin with."""
    retries, calls, retried = RetryBudget(), 0, 0
    for wants_retry in moves:
        if not wants_retry:
            retries, calls = retries.record_call(), calls + 1
        elif left := retries.try_take():
            retries, retried = left, retried + 1
    assert retried <= 10 + calls / 5 + 1e-9


def opened(*, failures: int = 10, now: float = 100.0) -> UpstreamCircuit:
    breaker = UpstreamCircuit()
    for _ in range(failures):
        breaker = breaker.record_failure(now=now)
    return breaker


def test_ten_failures_in_a_row_open_the_breaker() -> None:
    """Nine do not; a success between them begins the count anew."""
    assert opened(failures=9).try_call(probe_s=9, now=100.0)[0] == 0
    assert opened(failures=9).record_success().record_failure(now=100.0).try_call(probe_s=9, now=100.0)[0] == 0
    assert opened().try_call(probe_s=9, now=100.0)[0] == 1.0


def test_one_probe_at_a_time_and_a_longer_pause_after_each_that_fails() -> None:
    """After the pause one caller goes ahead; the others stay away until its end, or until it counts as lost."""
    left_s, breaker = opened().try_call(probe_s=9, now=101.0)
    assert left_s == 0
    assert breaker.try_call(probe_s=9, now=102.0)[0] == 8.0
    assert breaker.try_call(probe_s=9, now=110.0)[0] == 0
    again = breaker.record_failure(now=103.0)
    assert again.try_call(probe_s=9, now=103.0)[0] == 2.0
    assert again.record_failure(now=106.0).try_call(probe_s=9, now=106.0)[0] == 4.0
    assert breaker.record_success().try_call(probe_s=9, now=103.0)[0] == 0


def test_the_pause_has_an_end() -> None:
    """However long the upstream fails, it is asked every four seconds, and after a step back of the clock at once."""
    breaker = opened(failures=60)
    assert breaker.try_call(probe_s=9, now=100.0)[0] == 4.0
    assert breaker.try_call(probe_s=9, now=50.0)[0] == 0


def served(waiting: FairQueue[str], claimants: dict[str, CallContext]) -> list[str]:
    order = []
    while (ticket := waiting.first()) is not None:
        waiting.remove(claimants[ticket], ticket, served=True)
        order.append(ticket)
    return order


def test_callers_take_turns_inside_a_class_and_classes_go_by_rank() -> None:
    """A write first, then the readers in turn, however many tickets one of them has; what can wait comes last."""
    waiting: FairQueue[str] = FairQueue()
    claimants = {}
    tickets = [*(("crawler", Priority.INTERACTIVE, f"c{n}") for n in range(4)), ("one", Priority.INTERACTIVE, "o")]
    tickets += [("batch", Priority.BATCH, "b"), ("one", Priority.PREFETCH, "r"), ("other", Priority.WRITE, "w")]
    for caller, priority, ticket in tickets:
        claimants[ticket] = CallContext(priority, caller)
        waiting.add(claimants[ticket], ticket)
    assert waiting.count_ahead(CallContext(Priority.INTERACTIVE, "two")) == 1 + 2
    assert waiting.count_ahead(CallContext(Priority.INTERACTIVE, "crawler")) == 1 + 4 + 1
    assert served(waiting, claimants) == ["w", "c0", "o", "c1", "c2", "c3", "b", "r"]
    assert len(waiting) == 0


def test_who_leaves_unserved_does_not_cost_the_others_their_turn() -> None:
    """The caller whose ticket is withdrawn is still the next."""
    waiting: FairQueue[str] = FairQueue()
    claimants = {name: CallContext(caller=name[0]) for name in ("a1", "a2", "b1")}
    for name, claimant in claimants.items():
        waiting.add(claimant, name)
    waiting.remove(claimants["a1"], "a1", served=False)
    waiting.remove(claimants["a1"], "a1", served=False)
    assert served(waiting, claimants) == ["a2", "b1"]
