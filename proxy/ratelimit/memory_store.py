"""The budget's books in this process: one log of calls for each scope."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import count as counted
from itertools import islice
from typing import Final, Protocol

from proxy.core.call_context import Priority
from proxy.core.values import immutable
from proxy.ratelimit.sliding_window import (
    Allowance,
    Log,
    Taken,
    Told,
    Usage,
    Wait,
    closed,
    corrected,
    drop_expired,
    ended,
    noted,
    take,
    tightest,
)

_MOST_SCOPES: Final = 10_000
_LOOKED_AT: Final = 200


@immutable
class WithoutStore:
    """The shared log of calls can't be reached: this replica goes by *mode*, as one of *replicas*.

    It makes no call for *no_calls_for_s*, which is 0 in mode `share`.
    """

    mode: str
    replicas: int
    no_calls_for_s: float

    @property
    def share(self) -> str:
        """The part of each limit that falls to this replica."""
        return f"1/{self.replicas}"


class Ledger(Protocol):
    """Keeps the budget of each scope. It never fails: a shared one that is away goes by what this replica knows."""

    async def start(self) -> None:
        """Learn how the books stand."""
        ...

    def listening(self) -> None:
        """This replica begins to hear the others, perhaps again."""
        ...

    async def take(self, scope: str, priority: Priority) -> Taken | Wait:
        """Return leave to make one call, or how long to wait for one."""
        ...

    def take_at_once(self, scope: str, priority: Priority) -> Taken | Wait | None:
        """Return what `take` would, None where another has to be asked first."""
        ...

    def report(self, scope: str, lease: str, *, told: Sequence[Told] = (), closed_s: float | None = None) -> None:
        """The call *lease* was answered or given up; the upstream *told* limits, and to stay away for *closed_s*."""
        ...

    def limits(self, scope: str) -> Mapping[str, Allowance]:
        """Return the limits that the upstream told, by name."""
        ...

    def allowances(self, scope: str) -> Sequence[Allowance]:
        """Return every limit that holds."""
        ...

    def usage(self) -> Usage | None:
        """Return how the tightest of all limits stands, by the calls of this process; None where none is known."""
        ...

    def without_store(self) -> WithoutStore | None:
        """Return how calls are limited while the shared log can't be reached, None while it can or none is shared."""
        ...

    async def close(self) -> None:
        """Let go of what is held."""
        ...


class MemoryLedger:
    """A `Ledger` of this process alone. *clock* never steps back; *hold_s* see `proxy.ratelimit.sliding_window`."""

    def __init__(self, configured: Allowance | None, *, hold_s: float, clock: Callable[[], float]) -> None:
        self._configured = configured
        self._hold_s = hold_s
        self._clock = clock
        self._logs: OrderedDict[str, Log] = OrderedDict()
        self._leases = counted(1)

    async def start(self) -> None:
        """See `Ledger.start`: they are empty."""

    def listening(self) -> None:
        """See `Ledger.listening`: there are none."""

    async def take(self, scope: str, priority: Priority) -> Taken | Wait:
        """See `Ledger.take`."""
        return self.take_now(scope, priority)

    def take_at_once(self, scope: str, priority: Priority) -> Taken | Wait:
        """See `Ledger.take_at_once`: there is nobody to ask."""
        return self.take_now(scope, priority)

    def take_now(
        self, scope: str, priority: Priority, *, lease: str = "", rank: int = 0, among: int = 1
    ) -> Taken | Wait:
        """Return what `take` returns, by the part of replica *rank* of *among*."""
        whole = log = self._log(scope)
        configured = self._configured
        if among > 1:
            log = replace(log, told={name: each.share(rank, among) for name, each in log.told.items()})
            configured = configured.share(rank, among) if configured else None
        verdict, log = take(
            log,
            configured,
            lease=lease or f"m{next(self._leases)}",
            priority=priority,
            hold_s=self._hold_s,
            now=self._clock(),
        )
        self._keep(scope, replace(log, told=whole.told) if among > 1 else log)
        return verdict

    def note(self, scope: str, lease: str) -> None:
        """Log a call that was granted elsewhere."""
        now = self._clock()
        log = drop_expired(self._log(scope), self._configured, now=now)
        self._keep(scope, noted(log, lease, hold_s=self._hold_s, now=now))

    def forget(self, scope: str, lease: str) -> None:
        """Take a call out that was not made."""
        log = self._log(scope)
        self._keep(scope, replace(log, entries=tuple(each for each in log.entries if each[1] != lease)))

    def learn(self, scope: str, told: Mapping[str, Allowance]) -> None:
        """Take over limits that were told to another replica."""
        self._keep(scope, replace(self._log(scope), told=told))

    def close_gate(self, scope: str, closed_s: float) -> None:
        """Make no calls for *closed_s*, as another replica was told."""
        self._keep(scope, closed(self._log(scope), closed_s=closed_s, now=self._clock()))

    def log(self, scope: str) -> Log:
        """Return the calls of *scope* that count, and its limits."""
        return drop_expired(self._log(scope), self._configured, now=self._clock())

    def scopes(self) -> list[str]:
        """Return every scope that is known, the one that was used last first."""
        return list(reversed(self._logs))

    def report(self, scope: str, lease: str, *, told: Sequence[Told] = (), closed_s: float | None = None) -> None:
        """See `Ledger.report`."""
        now = self._clock()
        log = self._log(scope)
        for each in told:
            log = corrected(log, each, now=now)
        if closed_s is not None:
            log = closed(log, closed_s=closed_s, now=now)
        self._keep(scope, ended(log, lease, now=now))

    def limits(self, scope: str) -> Mapping[str, Allowance]:
        """See `Ledger.limits`."""
        log = self._logs.get(scope)
        return log.told if log else {}

    def allowances(self, scope: str) -> Sequence[Allowance]:
        """See `Ledger.allowances`."""
        return self._log(scope).allowances(self._configured)

    def usage(self) -> Usage | None:
        """See `Ledger.usage`: of the scopes that called last."""
        now = self._clock()
        latest = islice(reversed(self._logs.values()), _LOOKED_AT)
        known = [found for log in latest if (found := tightest(log, self._configured, now=now))]
        fresh = Usage(self._configured, 0) if self._configured else None
        return min(known, key=lambda usage: usage.left_share, default=fresh)

    def counted_s(self, scope: str) -> float:
        """Return the longest that a call counts, seconds; 0 without a limit."""
        return max((each.counted_s for each in self.allowances(scope)), default=0.0)

    def without_store(self) -> None:
        """See `Ledger.without_store`: nothing is shared."""

    async def close(self) -> None:
        """See `Ledger.close`."""

    def _log(self, scope: str) -> Log:
        return self._logs.get(scope) or Log()

    def _keep(self, scope: str, log: Log) -> None:
        self._logs[scope] = log
        self._logs.move_to_end(scope)
        if len(self._logs) > _MOST_SCOPES:
            self._logs.popitem(last=False)
