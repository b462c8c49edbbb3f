"""Law 6 under every schedule: no window at the upstream sees more than the budget."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.call_context import Priority
from proxy.ratelimit.sliding_window import AdvertisedLimit as Limit
from proxy.ratelimit.sliding_window import (
    CallLog,
    Granted,
    RateLimit,
    apply_advertised,
    end_call,
    start_cooldown,
    take_slot,
)
from tests.support.windows import most_in_a_window

HOLD_S = 2.0


@dataclass
class World:
    """True time, a clock that may be set back, calls under way, and when each arrived upstream."""

    allowance: RateLimit
    log: CallLog = field(default_factory=CallLog)
    true_time: float = 1000.0
    set_back_s: float = 0.0
    under_way: list[tuple[str, float]] = field(default_factory=list)
    arrivals: list[float] = field(default_factory=list)
    names: int = 0

    @property
    def now(self) -> float:
        return self.true_time - self.set_back_s

    def take(self, priority: Priority) -> None:
        self.names += 1
        verdict, self.log = take_slot(
            self.log, self.allowance, lease=str(self.names), priority=priority, hold_s=HOLD_S, now=self.now
        )
        if isinstance(verdict, Granted):
            self.under_way.append((verdict.lease, self.true_time))

    def answer(self, which: int, arrives: float) -> None:
        """End a call that arrived at some time between its beginning, 0, and now, 1."""
        if self.under_way:
            lease, began = self.under_way.pop(which % len(self.under_way))
            self.arrivals.append(began + arrives * (self.true_time - began))
            self.log = end_call(self.log, lease, now=self.now)

    def crash(self, arrives: float) -> None:
        """Lose all that is under way: it arrives within the time a call may be on its way, and nobody tells of it."""
        self.arrivals += [began + arrives * HOLD_S for _, began in self.under_way]
        self.under_way.clear()


_moves = st.one_of(
    st.tuples(st.just("take"), st.sampled_from(Priority)),
    st.tuples(st.just("take"), st.just(Priority.WRITE)),
    st.tuples(st.just("pass"), st.sampled_from([0.0, 0.01, 0.3, 0.5, 0.999, 1.0, 1.001, 2.0])),
    st.tuples(st.just("back"), st.floats(0.0, 5000.0)),
    st.tuples(st.just("answer"), st.integers(0, 5), st.floats(0.0, 1.0)),
    st.tuples(st.just("crash"), st.floats(0.0, 1.0)),
    st.tuples(st.just("close"), st.floats(0.0, 3.0)),
    st.tuples(st.just("told"), st.integers(0, 6)),
)


@given(calls=st.integers(1, 5), moves=st.lists(_moves, max_size=80))
def test_no_schedule_lets_more_than_the_budget_through(calls: int, moves: list[tuple[object, ...]]) -> None:
    """Whatever is taken, answered late, lost in a crash or set back, no window of a second sees more than *calls*."""
    world = World(RateLimit(calls, 1.0))
    for move in moves:
        match move:
            case ("take", Priority() as priority):
                world.take(priority)
            case ("pass", float(seconds)):
                world.true_time += seconds
            case ("back", float(seconds)):
                world.set_back_s += seconds
            case ("answer", int(which), float(arrives)):
                world.answer(which, arrives)
            case ("crash", float(arrives)):
                world.crash(arrives)
            case ("close", float(seconds)):
                world.log = start_cooldown(world.log, cooldown_s=seconds, now=world.now)
            case ("told", int(remain)):
                world.log = apply_advertised(world.log, Limit("user", RateLimit(6, 1.0), remain), now=world.now)
            case _:
                raise AssertionError(move)
    world.crash(1.0)
    assert most_in_a_window(world.arrivals, 1.0) <= calls


@settings(max_examples=20)
@given(calls=st.integers(1, 20), latency_s=st.floats(0.0, 0.5))
def test_the_budget_is_used_up_where_there_is_demand(calls: int, latency_s: float) -> None:
    """Under steady demand all slots come round once in a window and an answer."""
    world = World(RateLimit(calls, 1.0))
    began = world.true_time
    while world.true_time < began + 6:
        world.take(Priority.WRITE)
        world.true_time += 0.01
        while world.under_way and world.true_time >= world.under_way[0][1] + latency_s:
            world.answer(0, 0.0)
    rounds = 6 / (1.001 + latency_s + 0.02)
    assert len(world.arrivals) + len(world.under_way) >= calls * int(rounds) * 0.9


@given(arrivals=st.lists(st.floats(0, 10), max_size=30), window_s=st.floats(0.1, 3))
def test_the_count_of_a_window_is_that_of_its_definition(arrivals: list[float], window_s: float) -> None:
    """The witness of these tests agrees with the plain definition."""
    plain = max((sum(a <= b < a + window_s for b in arrivals) for a in arrivals), default=0)
    assert most_in_a_window(arrivals, window_s) == plain
