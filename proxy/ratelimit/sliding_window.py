"""How many calls the upstream may see: an exact log of the latest ones.

The law: no window of *per_s* seconds, wherever it begins, sees more than *calls* calls, counted where they arrive.
GCRA with a burst of *calls* lets nearly twice as many through, a full burst and then the refill; with a smaller burst
it keeps the law and wastes what a window would allow. A log of the latest calls does neither, for its size is *calls*.

When a call arrives nobody here knows, but that it is between being taken and being answered. So it counts until *per_s*
after its answer: two calls that follow each other in one slot are *per_s* apart at the upstream, however long the
network held the first. A call whose answer is never reported (its process died) arrived within *hold_s* or never.

The share of a budget that one replica may use while it can't reach the log that all replicas have in common.

Each replica knows how the budget stood when the store last answered. Of what was left then, and of what becomes free as
the calls of that time stop counting, it may use one part, by the number of replicas; the parts add up to the whole. At
any time a replica's own calls since then are fewer than

    share(calls - calls of that time that still count)

so all replicas that were told the same stay within the budget. One that was told earlier than another doesn't know what
was granted in between: each such call may be made again by that replica's part of it. `SharedLedger` states the bound.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from math import inf
from typing import Final

from proxy.core.call_context import Priority
from proxy.core.values import immutable

CONFIGURED: Final = "configured"
# Clocks that are slewed differ by 500 ppm at most from one another and from true time.
_DRIFT: Final = 0.001
# What a class leaves of a budget to those before it: a write finds a call left by reads, a reader one by readahead.
LEAVES: Final[Mapping[Priority, float]] = {
    Priority.WRITE: 0.0,
    Priority.INTERACTIVE: 0.05,
    Priority.BATCH: 0.05,
    Priority.REVALIDATION: 0.15,
    Priority.READAHEAD: 0.3,
}


def divide_calls(calls: int, rank: int, among: int) -> int:
    """Return how many of *calls* fall to replica *rank* of *among*, from 0 on; all of them together get *calls*."""
    return calls // among + (rank < calls % among)


@immutable
class Allowance:
    """At most *calls* calls in any *per_s* seconds."""

    calls: int
    per_s: float

    @classmethod
    def counting(cls, calls: int, counted_s: float) -> Allowance:
        """Return the allowance whose calls count for *counted_s*."""
        return cls(calls, round(counted_s / (1.0 + _DRIFT), 6))

    @property
    def counted_s(self) -> float:
        """How long a call counts after its answer."""
        return self.per_s * (1.0 + _DRIFT)

    def usable(self, priority: Priority) -> int:
        """Return how many of the calls the class *priority* may use up; the rest is left to more urgent ones."""
        return self.calls - int(self.calls * LEAVES[priority])

    def share(self, rank: int, among: int) -> Allowance:
        """Return the part of replica *rank* of *among*, from 0 on; the parts add up to the whole, and some may be 0."""
        return replace(self, calls=divide_calls(self.calls, rank, among))


@immutable
class Taken:
    """A call may be made, once. *left* is the share of the budget that is left, from 0 to 1."""

    lease: str
    left: float


@immutable
class Wait:
    """No call may be made for *wait_s* seconds at least, or until one ends; *closed* says that the gate is why.

    *uncertain* says that this replica can't ask how the budget stands; there may be a call as soon as it can.
    """

    wait_s: float
    closed: bool = False
    uncertain: bool = False


@immutable
class Told:
    """What the upstream says of its limit *name*; *remain* is how many calls it says are left, if it does."""

    name: str
    allowance: Allowance
    remain: int | None = None


@immutable
class Log:
    """The calls that count, each with its lease and the time it counts from, in order; for one under way that is ahead.

    *at* is the latest time seen. The gate is closed until *closed_until*; *doubtful* says that the next call will be a
    probe, made alone, and *probe* is the lease of one under way. *told* are the upstream's own limits by name.
    """

    entries: tuple[tuple[float, str], ...] = ()
    at: float = -inf
    closed_until: float = -inf
    doubtful: bool = False
    probe: str = ""
    told: Mapping[str, Allowance] = field(default_factory=dict)

    def allowances(self, configured: Allowance | None) -> list[Allowance]:
        """Return every limit that holds."""
        return [*self.told.values(), *([configured] if configured else [])]

    def having(self, entries: tuple[tuple[float, str], ...], *, at: float) -> Log:
        """Return the log with *entries* in place of its own, seen *at* that time.

        Every call is entered and ended; `dataclasses.replace` would take several times as long.
        """
        return Log(entries, at, self.closed_until, self.doubtful, self.probe, self.told)


def take(
    log: Log, configured: Allowance | None, *, lease: str, priority: Priority, hold_s: float, now: float
) -> tuple[Taken | Wait, Log]:
    """Return whether a call may be made at *now*, and the log with it.

    A clock that steps back counts as one that stood still: what was logged moves back with it.
    """
    allowances = log.allowances(configured)
    log = _advanced(log, allowances, now)
    if now < log.closed_until:
        return Wait(log.closed_until - now, closed=True), log
    if waits := [wait for each in allowances if (wait := _wait_s(log, each, priority, now)) > 0]:
        return Wait(max(waits)), log
    log = noted(log, lease, hold_s=hold_s, now=now)
    if log.doubtful or log.probe:  # a probe whose end was not told is followed by another
        log = replace(log, doubtful=False, probe=lease, closed_until=now + hold_s)
    return Taken(lease, left_share(log, configured, now=now)), log


def noted(log: Log, lease: str, *, hold_s: float, now: float) -> Log:
    """Return the log with a call that was granted elsewhere."""
    log = _stepped(log, now)
    entries = list(log.entries)
    insort(entries, (now + hold_s, lease))
    return log.having(tuple(entries), at=now)


def ended(log: Log, lease: str, *, now: float) -> Log:
    """Return the log after the call *lease* was answered, or given up. The gate that waited for a probe opens."""
    log = _stepped(log, now)
    entries = [(at, who) for at, who in log.entries if who != lease]
    if len(entries) < len(log.entries):
        insort(entries, (now, lease))
    if log.probe == lease:
        log = replace(log, probe="", closed_until=now)
    return log.having(tuple(entries), at=now)


def closed(log: Log, *, closed_s: float, now: float) -> Log:
    """Return the log with the gate closed for *closed_s* seconds at least; who calls after that is a probe."""
    log = _stepped(log, now)
    return replace(log, closed_until=max(log.closed_until, now + closed_s), doubtful=True, probe="")


def corrected(log: Log, told: Told, *, now: float) -> Log:
    """Return the log after the upstream told a limit; calls that others made, as *remain* shows, count as ours."""
    log = replace(_stepped(log, now), told={**log.told, told.name: told.allowance})
    if told.remain is None:
        return log
    foreign = told.allowance.calls - told.remain - _count(log, told.allowance, now)
    others = ((now, f"{told.name}-{now!r}-{number}") for number in range(foreign))
    return replace(log, entries=tuple(sorted((*log.entries, *others))))


def left_share(log: Log, configured: Allowance | None, *, now: float) -> float:
    """Return the share of the budget that is left at *now*: 1 where none is known, 0 where nothing is."""
    shares = [1.0 - _count(log, each, now) / max(1, each.calls) for each in log.allowances(configured)]
    return max(0.0, min(shares, default=1.0))


@immutable
class Usage:
    """How one limit stands: of the calls that *allowance* lets through, *used* count at the moment."""

    allowance: Allowance
    used: int

    @property
    def left_share(self) -> float:
        """The share that is left, from 0 to 1."""
        return max(0.0, 1.0 - self.used / max(1, self.allowance.calls))


def tightest(log: Log, configured: Allowance | None, *, now: float) -> Usage | None:
    """Return the limit of which the least is left at *now*, None where none holds."""
    log = _stepped(log, now)
    each = (Usage(allowance, _count(log, allowance, now)) for allowance in log.allowances(configured))
    return min(each, key=lambda usage: usage.left_share, default=None)


def drop_expired(log: Log, configured: Allowance | None, *, now: float) -> Log:
    """Return the log without the calls that no longer count towards any limit."""
    return _advanced(log, log.allowances(configured), now)


def _stepped(log: Log, now: float) -> Log:
    if now == log.at:
        return log
    if now > log.at:
        return log.having(log.entries, at=now)
    back = log.at - now
    return replace(
        log,
        entries=tuple((at - back, lease) for at, lease in log.entries),
        at=now,
        closed_until=log.closed_until - back,
    )


def _advanced(log: Log, allowances: list[Allowance], now: float) -> Log:
    log = _stepped(log, now)
    longest_s = max((each.counted_s for each in allowances), default=0.0)
    gone = bisect_right(log.entries, now - longest_s, key=_since)
    return log.having(log.entries[gone:], at=now) if gone else log


def _since(entry: tuple[float, str]) -> float:
    return entry[0]


def _count(log: Log, allowance: Allowance, now: float) -> int:
    return len(log.entries) - bisect_right(log.entries, now - allowance.counted_s, key=_since)


def _wait_s(log: Log, allowance: Allowance, priority: Priority, now: float) -> float:
    """Return how long until the budget has a call for the class *priority*, if none that is under way ends before."""
    usable = allowance.usable(priority)
    if _count(log, allowance, now) < usable:
        return 0.0
    if usable <= 0:
        return allowance.per_s
    return log.entries[-usable][0] + allowance.counted_s - now


Parts = Sequence[tuple[float, int]]


@immutable
class Statement:
    """How the budget of a scope stood when the store last answered.

    *counted* has for each limit, by name, parts of the calls that counted then: until when (by the local clock) and how
    many. *life* and *at* are the store's own: which of its lives, and its time. Own calls with a number up to *number*
    are among them.
    """

    counted: Mapping[str, Parts] = field(default_factory=dict)
    life: bytes = b""
    at: float = -inf
    sent_at: float = -inf
    heard_at: float = -inf
    number: int = 0

    def is_newer_than(self, other: Statement) -> bool:
        """Whether this replaces *other*. Replies may overtake each other, and the store's clock may be set back."""
        return self.life != other.life or self.at >= other.at or self.sent_at >= other.heard_at


@immutable
class Share:
    """What one replica may use: of *limits* by name, as replica *rank* of *among*; *own* calls count since these times.

    *statement* is the last that the store said.
    """

    limits: Mapping[str, Allowance]
    statement: Statement
    own: Sequence[float]
    rank: int
    among: int

    def wait_s(self, priority: Priority, *, now: float) -> float:
        """Return how long until there is a call for the class *priority*; 0 where there is one."""
        return max((self._wait_s(name, priority, now) for name in self.limits), default=0.0)

    def left(self, *, now: float) -> float:
        """Return how much of its part this replica has left, from 0 to 1."""
        lefts = [
            (self._part(name, now) - self._used(each, now)) / max(1, divide_calls(each.calls, self.rank, self.among))
            for name, each in self.limits.items()
        ]
        return max(0.0, min(lefts, default=1.0))

    def _wait_s(self, name: str, priority: Priority, now: float) -> float:
        allowance = self.limits[name]

        def is_free(at: float) -> bool:
            part = self._part(name, at)
            return self._used(allowance, at) < part - int(part * LEAVES[priority])

        if is_free(now):
            return 0.0
        ends = [until for until, _ in self.statement.counted.get(name, ())]
        ends += [since + allowance.counted_s for since in self.own]
        moments = sorted(at for at in ends if at > now)
        first = bisect_left(moments, True, key=is_free)  # once there is a call there is one
        return moments[first] - now if first < len(moments) else allowance.per_s

    def _part(self, name: str, at: float) -> int:
        counting = sum(calls for until, calls in self.statement.counted.get(name, ()) if until > at)
        return divide_calls(max(0, self.limits[name].calls - counting), self.rank, self.among)

    def _used(self, allowance: Allowance, at: float) -> int:
        return sum(since + allowance.counted_s > at for since in self.own)


def limits_by_name(log: Log, configured: Allowance | None) -> dict[str, Allowance]:
    """Return every limit that holds, by name."""
    return {**log.told, **({CONFIGURED: configured} if configured else {})}
