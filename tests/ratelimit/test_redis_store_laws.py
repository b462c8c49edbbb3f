"""Law 6 for replicas on one Redis, whatever happens to it and to them.

With `budget.without_store = "hold"` no window at the upstream sees more calls than the budget; with "share" none sees
more than the stated bound, and none sees more than the budget where every replica knew how it stood.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from inspect import isawaitable
from math import ceil
from types import SimpleNamespace
from typing import Any, Final, Literal

import pytest
from fakeredis import FakeAsyncRedis, FakeServer
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from proxy.core.call_context import Priority
from proxy.ratelimit.memory_store import MemoryRateLimitStore
from proxy.ratelimit.redis_store import OUTAGE_NOTICED_S, RedisRateLimitStore
from proxy.ratelimit.sliding_window import Granted, RateLimit
from proxy.storage.redis import RedisStore
from tests.support.rate_limit_stores import PREFIX, Unguarded
from tests.support.windows import most_in_a_window

WINDOW_S: Final = 4.0
HOLD_S: Final = 2.0
NOTICE_S: Final = 1.0  # by then whoever listens has noticed that Redis is away
STEP_S: Final = 0.9  # each replica asks in the background at least so often, and so notices within `OUTAGE_NOTICED_S`
NAMES: Final = ("r0", "r1", "r2")


@dataclass
class Replica:
    """A ledger, the calls of it that are under way, and whether it hears the others."""

    ledger: RedisRateLimitStore
    in_touch: bool = True
    under_way: list[tuple[str, float]] = field(default_factory=list)


class World:
    """True time, a Redis with a clock of its own that comes and goes, and replicas that die."""

    def __init__(self, calls: int, mode: Literal["share", "hold"], *, informed: bool = False) -> None:
        self.mode = mode
        self.informed = informed
        self.allowance = RateLimit(calls, WINDOW_S)
        self.true_time = 1000.0
        self.set_back_s = 0.0
        self.server = FakeServer()
        self.store = RedisStore(FakeAsyncRedis(server=self.server), prefix=PREFIX, keep_s=60)
        self.away_since: float | None = None
        self.troubled_at = 0.0
        self.crashed_at = 0.0
        self.maintained_at = self.true_time
        self.arrivals: list[float] = []
        self.replicas: dict[str, Replica] = {}

    async def start(self, name: str) -> None:
        """Start a replica, unless others hold back: one that starts then is the exception that is documented."""
        steady_s = WINDOW_S + HOLD_S + 2 * OUTAGE_NOTICED_S + 1
        if name in self.replicas or self.away_since is not None or self.true_time < self.troubled_at + steady_s:
            return
        replica = Replica(self._ledger(name))
        self.replicas[name] = replica
        await replica.ledger.start()
        replica.ledger.note_connected()

    def _ledger(self, name: str) -> RedisRateLimitStore:
        return RedisRateLimitStore(
            self.store,
            MemoryRateLimitStore(self.allowance, hold_s=HOLD_S, clock=lambda: self.true_time),
            self.allowance,
            name=name,
            peers=lambda: frozenset(NAMES),
            in_touch=lambda: self.replicas[name].in_touch,
            notice_s=NOTICE_S,
            hold_s=HOLD_S,
            breaker=Unguarded(),
            timeout_s=1.0,
            without_store=self.mode,
            on_outage=("s",),
            clock=lambda: self.true_time,
            in_background=False,
        )

    async def take(self, name: str, priority: Priority) -> None:
        """Take a call, if *name* lives and gets one."""
        if (replica := self.replicas.get(name)) is not None:
            verdict = await replica.ledger.take("s", priority)
            if isinstance(verdict, Granted):
                replica.under_way.append((verdict.lease, self.true_time))

    async def burst(self, name: str) -> None:
        """Take as many calls as there may be in all."""
        for _ in range(self.allowance.calls):
            await self.take(name, Priority.WRITE)

    async def answers(self, name: str, arrives: float) -> None:
        """End all calls of *name*, which arrived between their beginning, 0, and now, 1, but within *HOLD_S*."""
        replica = self.replicas.get(name)
        if replica is not None:
            for lease, began in replica.under_way:
                self.arrivals.append(began + arrives * min(HOLD_S, self.true_time - began))
                replica.ledger.report("s", lease)
            replica.under_way.clear()
            await replica.ledger.close()

    async def maintain(self) -> None:
        """Let each replica do what it does in the background, and send what it has to report."""
        self.maintained_at = self.true_time
        for name in self.replicas:
            await self.notices(name)

    async def notices(self, name: str) -> None:
        """Let one replica do so."""
        if (replica := self.replicas.get(name)) is not None:
            await replica.ledger.maintain()
            await replica.ledger.close()

    def crash(self, name: str, arrives: float) -> None:
        """End a replica without a word; what it has under way still arrives."""
        if (replica := self.replicas.pop(name, None)) is not None:
            self.crashed_at = self.true_time
            self.arrivals += [began + arrives * HOLD_S for _, began in replica.under_way]

    async def goes(self) -> None:
        """Cut Redis off; where all are *informed*, they have just learnt how the budget stands, and notice at once."""
        if self.away_since is None:
            if self.informed:
                await self.maintain()
            self.away_since = self.true_time
            self.server.connected = False
            if self.informed:
                await self.maintain()

    async def comes(self, empty: bool) -> None:
        """Bring Redis back with what it had, or with nothing; who noticed has to listen again first.

        With shares it is not empty where a replica has crashed: what that one called nobody knows, as is documented.
        """
        if self.away_since is None:
            return
        self.look()
        self.away_since, self.troubled_at, self.server.connected = None, self.true_time, True
        forgotten = self.mode == "share" and self.true_time < self.crashed_at + WINDOW_S + HOLD_S
        if empty and not forgotten:
            await self.store.redis.flushall()

    async def passes(self, seconds: float) -> None:
        """Let time pass, in which replicas do what they do in the background; who listens notices what is away."""
        until, rounds = self.true_time + seconds, 0
        while self.maintained_at + STEP_S <= until:
            self.true_time = max(self.true_time, self.maintained_at + STEP_S)
            self.look()
            await self.maintain()
            rounds += 1
            if rounds == 5:  # by then nothing is new to them
                self.maintained_at = until
        self.true_time = until
        self.look()

    def look(self) -> None:
        """Let everyone notice a Redis that is away."""
        if self.away_since is not None and self.true_time >= self.away_since + NOTICE_S:
            for replica in self.replicas.values():
                replica.in_touch = False

    def set_back(self, seconds: float) -> None:
        """Set the clock of Redis back."""
        self.set_back_s += seconds

    def listens(self, name: str) -> None:
        """Let a replica that noticed listen again."""
        replica = self.replicas.get(name)
        if replica is not None and not replica.in_touch and self.away_since is None:
            replica.in_touch = True
            replica.ledger.note_connected()


_names = st.sampled_from(NAMES)
_bursts = st.tuples(st.just("burst"), _names)
_answers = st.tuples(st.just("answers"), _names, st.sampled_from([0.0, 1.0]))
_pauses = st.tuples(st.just("passes"), st.sampled_from([0.3, 0.9, 1.9, 3.4, 3.9, 4.1, 6.1, 12.0]))
_rounds = st.tuples(_bursts, _pauses, _answers, _pauses)
_comes = st.tuples(st.just("comes"), st.booleans())
_listens = st.tuples(*(st.tuples(st.just("listens"), st.just(name)) for name in NAMES))
_troubles = st.one_of(
    st.tuples(st.tuples(st.just("take"), _names, st.sampled_from([Priority.INTERACTIVE, Priority.PREFETCH]))),
    st.tuples(st.tuples(st.just("crash"), _names, st.sampled_from([0.0, 1.0])), _pauses),
    st.tuples(st.tuples(st.just("start"), _names)),
    st.tuples(st.tuples(st.just("set_back"), st.sampled_from([0.5, 3.0, 5000.0]))),
    st.tuples(st.just(("goes",)), _pauses),
    st.builds(lambda before, after: (("goes",), *before, *after), _rounds, st.tuples(_pauses, _comes)),
    st.builds(lambda each, all_of_them: (each, *all_of_them), _comes, _listens),
    st.tuples(st.tuples(st.just("listens"), _names)),
    st.tuples(st.tuples(st.just("notices"), _names)),
)
# Most of what happens is calls: trouble is of interest only between them.
_moves = st.lists(st.one_of(_rounds, _rounds, _rounds, _troubles), max_size=20).map(lambda each: sum(each, ()))


_PART_AND_BACK = (("goes",), ("burst", "r0"), ("passes", 6.1), ("burst", "r0"), ("comes", False))
_ALL_AND_GONE = (("burst", "r0"), ("goes",), ("passes", 1.1), ("burst", "r1"), ("passes", 1.9), ("burst", "r1"))


async def arrivals(
    monkeypatch: pytest.MonkeyPatch,
    calls: int,
    moves: tuple[tuple[Any, ...], ...],
    mode: Literal["share", "hold"],
    *,
    informed: bool = False,
) -> list[float]:
    """Return when calls arrived at the upstream."""
    world = World(calls, mode, informed=informed)
    clock = SimpleNamespace(time=lambda: world.true_time - world.set_back_s + 1e6)
    monkeypatch.setattr("fakeredis.commands_mixins.server_mixin.time", clock)
    for name in NAMES:
        await world.start(name)
    for move, *how in moves:
        moved = getattr(world, move)(*how)
        if isawaitable(moved):
            await moved
    for name in NAMES:
        world.crash(name, 1.0)
    await world.store.close()
    return world.arrivals


@example(calls=6, moves=(*_PART_AND_BACK, ("burst", "r1"))).via("who asked nothing meanwhile")
@example(calls=6, moves=(*_PART_AND_BACK, ("listens", "r1"), ("burst", "r1"))).via("and who listens again")
@example(calls=6, moves=_ALL_AND_GONE).via("what Redis granted last")
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls=st.integers(2, 7), moves=_moves)
async def test_with_hold_no_schedule_lets_more_than_the_budget_through(
    monkeypatch: pytest.MonkeyPatch, calls: int, moves: tuple[tuple[Any, ...], ...]
) -> None:
    """Replicas that crash, a Redis that goes and comes back, empty or not, clocks set back: never more than *calls*."""
    assert most_in_a_window(await arrivals(monkeypatch, calls, moves, "hold"), WINDOW_S) <= calls


@example(calls=6, moves=(*_PART_AND_BACK, ("burst", "r1"))).via("who asked nothing meanwhile")
@example(calls=6, moves=_ALL_AND_GONE).via("what Redis granted last")
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls=st.integers(2, 7), moves=_moves)
async def test_with_share_no_schedule_exceeds_the_stated_bound(
    monkeypatch: pytest.MonkeyPatch, calls: int, moves: tuple[tuple[Any, ...], ...]
) -> None:
    """The same: never more than *calls*, and the parts of all replicas but one on top."""
    bound = calls + (len(NAMES) - 1) * ceil(calls / len(NAMES))
    assert most_in_a_window(await arrivals(monkeypatch, calls, moves, "share"), WINDOW_S) <= bound


_ALL = tuple(("burst", name) for name in NAMES)


@example(calls=6, moves=(("burst", "r0"), ("answers", "r0", 1.0), ("goes",), *_ALL)).via("of what was left")
@example(calls=7, moves=(("goes",), *_ALL, ("passes", 0.3), *_ALL, ("passes", 0.3), *_ALL)).via("and no more")
@example(calls=6, moves=(("goes",), *_ALL, ("comes", True), ("passes", 3.4), *_ALL)).via("told what was called")
@example(calls=6, moves=(("goes",), *_ALL, ("comes", False), ("notices", "r1"), ("burst", "r1"))).via("settling")
@example(
    calls=6, moves=(("take", "r0", Priority.WRITE), ("goes",), ("comes", True), ("passes", 3.4), ("burst", "r1"))
).via("another life")
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls=st.integers(2, 7), moves=_moves)
async def test_with_share_informed_replicas_stay_within_the_budget(
    monkeypatch: pytest.MonkeyPatch, calls: int, moves: tuple[tuple[Any, ...], ...]
) -> None:
    """The overshoot is what was not known: where all know how it stood, and all live to tell, there is none."""
    steady = tuple(move for move in moves if move[0] not in ("crash", "start"))
    assert most_in_a_window(await arrivals(monkeypatch, calls, steady, "share", informed=True), WINDOW_S) <= calls
