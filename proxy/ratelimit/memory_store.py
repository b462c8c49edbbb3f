"""The rate limit in this process: one call log for each scope."""

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
    AdvertisedLimit,
    CallLog,
    Granted,
    LimitUsage,
    RateLimit,
    Wait,
    add_call,
    apply_advertised,
    drop_expired,
    end_call,
    start_cooldown,
    take_slot,
    tightest_limit,
)

_MAX_SCOPES: Final = 10_000
_MAX_CHECKED: Final = 200


@immutable
class StoreOutage:
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


class RateLimitStore(Protocol):
    """Keeps the budget of each scope. It never fails: a shared one that is away goes by what this replica knows."""

    async def start(self) -> None:
        """Read the state of the call log."""
        ...

    def note_connected(self) -> None:
        """This replica begins to hear the others, perhaps again."""
        ...

    async def take(self, scope: str, priority: Priority) -> Granted | Wait:
        """Return leave to make one call, or how long to wait for one."""
        ...

    def try_take(self, scope: str, priority: Priority) -> Granted | Wait | None:
        """Return what `take` would, None where another has to be asked first."""
        ...

    def report(
        self, scope: str, lease: str, *, advertised: Sequence[AdvertisedLimit] = (), cooldown_s: float | None = None
    ) -> None:
        """The call *lease* was answered or given up; the upstream *advertised* limits, and to stay away for
        *cooldown_s*.
        """
        ...

    def advertised_limits(self, scope: str) -> Mapping[str, RateLimit]:
        """Return the limits that the upstream told, by name."""
        ...

    def limits(self, scope: str) -> Sequence[RateLimit]:
        """Return every limit that holds."""
        ...

    def usage(self) -> LimitUsage | None:
        """Return how the tightest of all limits stands, by the calls of this process; None where none is known."""
        ...

    def store_outage(self) -> StoreOutage | None:
        """Return how calls are limited while the shared log can't be reached, None while it can or none is shared."""
        ...

    async def close(self) -> None:
        """Let go of what is held."""
        ...


class MemoryRateLimitStore:
    """A `RateLimitStore` of this process alone. *clock* never steps back; *hold_s* see
    `proxy.ratelimit.sliding_window`.
    """

    def __init__(self, configured: RateLimit | None, *, hold_s: float, clock: Callable[[], float]) -> None:
        self._configured = configured
        self._hold_s = hold_s
        self._clock = clock
        self._logs: OrderedDict[str, CallLog] = OrderedDict()
        self._leases = counted(1)

    async def start(self) -> None:
        """They are empty."""

    def note_connected(self) -> None:
        """There are none."""

    async def take(self, scope: str, priority: Priority) -> Granted | Wait:
        return self.take_now(scope, priority)

    def try_take(self, scope: str, priority: Priority) -> Granted | Wait:
        """There is nobody to ask."""
        return self.take_now(scope, priority)

    def take_now(
        self, scope: str, priority: Priority, *, lease: str = "", rank: int = 0, among: int = 1
    ) -> Granted | Wait:
        """Return what `take` returns, by the part of replica *rank* of *among*."""
        whole = log = self._call_log(scope)
        configured = self._configured
        if among > 1:
            log = replace(log, advertised={name: each.part_of(rank, among) for name, each in log.advertised.items()})
            configured = configured.part_of(rank, among) if configured else None
        verdict, log = take_slot(
            log,
            configured,
            lease=lease or f"m{next(self._leases)}",
            priority=priority,
            hold_s=self._hold_s,
            now=self._clock(),
        )
        self._keep(scope, replace(log, advertised=whole.advertised) if among > 1 else log)
        return verdict

    def add_call(self, scope: str, lease: str) -> None:
        """Log a call that was granted elsewhere."""
        now = self._clock()
        log = drop_expired(self._call_log(scope), self._configured, now=now)
        self._keep(scope, add_call(log, lease, hold_s=self._hold_s, now=now))

    def remove_call(self, scope: str, lease: str) -> None:
        """Take a call out that was not made."""
        log = self._call_log(scope)
        self._keep(scope, replace(log, entries=tuple(each for each in log.entries if each[1] != lease)))

    def record_advertised(self, scope: str, told: Mapping[str, RateLimit]) -> None:
        """Take over limits that were told to another replica."""
        self._keep(scope, replace(self._call_log(scope), advertised=told))

    def start_cooldown(self, scope: str, cooldown_s: float) -> None:
        """Make no calls for *cooldown_s*, as another replica was told."""
        self._keep(scope, start_cooldown(self._call_log(scope), cooldown_s=cooldown_s, now=self._clock()))

    def call_log(self, scope: str) -> CallLog:
        """Return the calls of *scope* that count, and its limits."""
        return drop_expired(self._call_log(scope), self._configured, now=self._clock())

    def scopes(self) -> list[str]:
        """Return every scope that is known, the one that was used last first."""
        return list(reversed(self._logs))

    def report(
        self, scope: str, lease: str, *, advertised: Sequence[AdvertisedLimit] = (), cooldown_s: float | None = None
    ) -> None:
        now = self._clock()
        log = self._call_log(scope)
        for each in advertised:
            log = apply_advertised(log, each, now=now)
        if cooldown_s is not None:
            log = start_cooldown(log, cooldown_s=cooldown_s, now=now)
        self._keep(scope, end_call(log, lease, now=now))

    def advertised_limits(self, scope: str) -> Mapping[str, RateLimit]:
        log = self._logs.get(scope)
        return log.advertised if log else {}

    def limits(self, scope: str) -> Sequence[RateLimit]:
        return self._call_log(scope).limits(self._configured)

    def usage(self) -> LimitUsage | None:
        """Of the scopes that called last."""
        now = self._clock()
        latest = islice(reversed(self._logs.values()), _MAX_CHECKED)
        known = [found for log in latest if (found := tightest_limit(log, self._configured, now=now))]
        fresh = LimitUsage(self._configured, 0) if self._configured else None
        return min(known, key=lambda usage: usage.left_share, default=fresh)

    def counted_s(self, scope: str) -> float:
        """Return the longest that a call counts, seconds; 0 without a limit."""
        return max((each.counted_s for each in self.limits(scope)), default=0.0)

    def store_outage(self) -> None:
        """Nothing is shared."""

    async def close(self) -> None: ...

    def _call_log(self, scope: str) -> CallLog:
        return self._logs.get(scope) or CallLog()

    def _keep(self, scope: str, log: CallLog) -> None:
        self._logs[scope] = log
        self._logs.move_to_end(scope)
        if len(self._logs) > _MAX_SCOPES:
            self._logs.popitem(last=False)
