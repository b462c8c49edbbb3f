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
was granted in between: each such call may be made again by that replica's part of it. `RedisRateLimitStore` states the
bound.
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
_MAX_CLOCK_DRIFT: Final = 0.001
# What a class leaves of a budget to those before it: a write finds a call left by reads, a reader one by readahead.
RESERVED_SHARES: Final[Mapping[Priority, float]] = {
    Priority.WRITE: 0.0,
    Priority.INTERACTIVE: 0.05,
    Priority.BATCH: 0.05,
    Priority.REVALIDATION: 0.15,
    Priority.PREFETCH: 0.3,
}


def divide_calls(calls: int, rank: int, among: int) -> int:
    """Return how many of *calls* fall to replica *rank* of *among*, from 0 on; all of them together get *calls*."""
    return calls // among + (rank < calls % among)


@immutable
class RateLimit:
    """At most *calls* calls in any *per_s* seconds."""

    calls: int
    per_s: float

    @classmethod
    def from_counted_s(cls, calls: int, counted_s: float) -> RateLimit:
        """Return the allowance whose calls count for *counted_s*."""
        return cls(calls, round(counted_s / (1.0 + _MAX_CLOCK_DRIFT), 6))

    @property
    def counted_s(self) -> float:
        """How long a call counts after its answer."""
        return self.per_s * (1.0 + _MAX_CLOCK_DRIFT)

    def usable(self, priority: Priority) -> int:
        """Return how many of the calls the class *priority* may use up; the rest is left to more urgent ones."""
        return self.calls - int(self.calls * RESERVED_SHARES[priority])

    def part_of(self, rank: int, among: int) -> RateLimit:
        """Return the part of replica *rank* of *among*, from 0 on; the parts add up to the whole, and some may be 0."""
        return replace(self, calls=divide_calls(self.calls, rank, among))


@immutable
class Granted:
    """A call may be made, once. *left_share* is the share of the budget that is left, from 0 to 1."""

    lease: str
    left_share: float


@immutable
class Wait:
    """No call may be made for *wait_s* seconds at least, or until one ends. With *is_cooldown* a cooldown is why.

    With *is_uncertain* this replica can't ask how the budget stands; a call may be made as soon as it can.
    """

    wait_s: float
    is_cooldown: bool = False
    is_uncertain: bool = False


@immutable
class AdvertisedLimit:
    """What the upstream says of its limit *name*; *remaining* is how many calls it says are left, if it does."""

    name: str
    limit: RateLimit
    remaining: int | None = None


@immutable
class CallLog:
    """The calls that count, each with its lease and the time it counts from, in order; for one under way that is ahead.

    *at* is the latest time seen. The gate is closed until *cooldown_until*; *probe_next* says that the next call will
    be a probe, made alone, and *probe* is the lease of one under way. *advertised* are the upstream's own limits by
    name.
    """

    entries: tuple[tuple[float, str], ...] = ()
    at: float = -inf
    cooldown_until: float = -inf
    probe_next: bool = False
    probe: str = ""
    advertised: Mapping[str, RateLimit] = field(default_factory=dict)

    def limits(self, configured: RateLimit | None) -> list[RateLimit]:
        """Return every limit that holds."""
        return [*self.advertised.values(), *([configured] if configured else [])]

    def with_entries(self, entries: tuple[tuple[float, str], ...], *, at: float) -> CallLog:
        """Return the log with *entries* in place of its own, seen *at* that time.

        Every call is entered and ended; `dataclasses.replace` would take several times as long.
        """
        return CallLog(entries, at, self.cooldown_until, self.probe_next, self.probe, self.advertised)


def take_slot(
    log: CallLog, configured: RateLimit | None, *, lease: str, priority: Priority, hold_s: float, now: float
) -> tuple[Granted | Wait, CallLog]:
    """Return whether a call may be made at *now*, and the log with it.

    A clock that steps back counts as one that stood still: what was logged moves back with it.
    """
    limits = log.limits(configured)
    log = _advance(log, limits, now)
    if now < log.cooldown_until:
        return Wait(log.cooldown_until - now, is_cooldown=True), log
    if waits := [wait for each in limits if (wait := _wait_s(log, each, priority, now)) > 0]:
        return Wait(max(waits)), log
    log = add_call(log, lease, hold_s=hold_s, now=now)
    if log.probe_next or log.probe:  # a probe whose end was not told is followed by another
        log = replace(log, probe_next=False, probe=lease, cooldown_until=now + hold_s)
    return Granted(lease, left_share(log, configured, now=now)), log


def add_call(log: CallLog, lease: str, *, hold_s: float, now: float) -> CallLog:
    """Return the log with a call that was granted elsewhere."""
    log = _step_clock(log, now)
    entries = list(log.entries)
    insort(entries, (now + hold_s, lease))
    return log.with_entries(tuple(entries), at=now)


def end_call(log: CallLog, lease: str, *, now: float) -> CallLog:
    """Return the log after the call *lease* was answered, or given up. The gate that waited for a probe opens."""
    log = _step_clock(log, now)
    entries = [(at, who) for at, who in log.entries if who != lease]
    if len(entries) < len(log.entries):
        insort(entries, (now, lease))
    if log.probe == lease:
        log = replace(log, probe="", cooldown_until=now)
    return log.with_entries(tuple(entries), at=now)


def start_cooldown(log: CallLog, *, cooldown_s: float, now: float) -> CallLog:
    """Return the log with the gate closed for *cooldown_s* seconds at least; who calls after that is a probe."""
    log = _step_clock(log, now)
    return replace(log, cooldown_until=max(log.cooldown_until, now + cooldown_s), probe_next=True, probe="")


def apply_advertised(log: CallLog, advertised: AdvertisedLimit, *, now: float) -> CallLog:
    """Return the log after the upstream told a limit; calls that others made, as `remaining` shows, count as ours."""
    log = replace(_step_clock(log, now), advertised={**log.advertised, advertised.name: advertised.limit})
    if advertised.remaining is None:
        return log
    foreign = advertised.limit.calls - advertised.remaining - _count(log, advertised.limit, now)
    others = ((now, f"{advertised.name}-{now!r}-{number}") for number in range(foreign))
    return replace(log, entries=tuple(sorted((*log.entries, *others))))


def left_share(log: CallLog, configured: RateLimit | None, *, now: float) -> float:
    """Return the share of the budget that is left at *now*: 1 where none is known, 0 where nothing is."""
    shares = [1.0 - _count(log, each, now) / max(1, each.calls) for each in log.limits(configured)]
    return max(0.0, min(shares, default=1.0))


@immutable
class LimitUsage:
    """How one limit stands: of the calls that *limit* lets through, *used* count at the moment."""

    limit: RateLimit
    used: int

    @property
    def left_share(self) -> float:
        """The share that is left, from 0 to 1."""
        return max(0.0, 1.0 - self.used / max(1, self.limit.calls))


def tightest_limit(log: CallLog, configured: RateLimit | None, *, now: float) -> LimitUsage | None:
    """Return the limit of which the least is left at *now*, None where none holds."""
    log = _step_clock(log, now)
    each = (LimitUsage(allowance, _count(log, allowance, now)) for allowance in log.limits(configured))
    return min(each, key=lambda usage: usage.left_share, default=None)


def drop_expired(log: CallLog, configured: RateLimit | None, *, now: float) -> CallLog:
    """Return the log without the calls that no longer count towards any limit."""
    return _advance(log, log.limits(configured), now)


def _step_clock(log: CallLog, now: float) -> CallLog:
    if now == log.at:
        return log
    if now > log.at:
        return log.with_entries(log.entries, at=now)
    back = log.at - now
    return replace(
        log,
        entries=tuple((at - back, lease) for at, lease in log.entries),
        at=now,
        cooldown_until=log.cooldown_until - back,
    )


def _advance(log: CallLog, limits: list[RateLimit], now: float) -> CallLog:
    log = _step_clock(log, now)
    longest_s = max((each.counted_s for each in limits), default=0.0)
    gone = bisect_right(log.entries, now - longest_s, key=_counted_from)
    return log.with_entries(log.entries[gone:], at=now) if gone else log


def _counted_from(entry: tuple[float, str]) -> float:
    return entry[0]


def _count(log: CallLog, limit: RateLimit, now: float) -> int:
    return len(log.entries) - bisect_right(log.entries, now - limit.counted_s, key=_counted_from)


def _wait_s(log: CallLog, limit: RateLimit, priority: Priority, now: float) -> float:
    """Return how long until the budget has a call for the class *priority*, if none that is under way ends before."""
    usable = limit.usable(priority)
    if _count(log, limit, now) < usable:
        return 0.0
    if usable <= 0:
        return limit.per_s
    return log.entries[-usable][0] + limit.counted_s - now


CountedParts = Sequence[tuple[float, int]]


@immutable
class LogSnapshot:
    """How the budget of a scope stood when the store last answered.

    *counted* has for each limit, by name, parts of the calls that counted then: until when (by the local clock) and how
    many. *store_run* and *at* are the store's own: which of its lives, and its time. Own calls with a number up to
    *number* are among them.
    """

    counted: Mapping[str, CountedParts] = field(default_factory=dict)
    store_run: bytes = b""
    at: float = -inf
    sent_at: float = -inf
    received_at: float = -inf
    number: int = 0

    def is_newer_than(self, other: LogSnapshot) -> bool:
        """Whether this replaces *other*. Replies may overtake each other, and the store's clock may be set back."""
        return self.store_run != other.store_run or self.at >= other.at or self.sent_at >= other.received_at


@immutable
class ReplicaShare:
    """What one replica may use: of *limits* by name, as replica *rank* of *among*; *own* calls count since these times.

    *snapshot* is the last that the store said.
    """

    limits: Mapping[str, RateLimit]
    snapshot: LogSnapshot
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
        limit = self.limits[name]

        def is_free(at: float) -> bool:
            part = self._part(name, at)
            return self._used(limit, at) < part - int(part * RESERVED_SHARES[priority])

        if is_free(now):
            return 0.0
        ends = [until for until, _ in self.snapshot.counted.get(name, ())]
        ends += [since + limit.counted_s for since in self.own]
        moments = sorted(at for at in ends if at > now)
        first = bisect_left(moments, True, key=is_free)  # once there is a call there is one
        return moments[first] - now if first < len(moments) else limit.per_s

    def _part(self, name: str, at: float) -> int:
        counting = sum(calls for until, calls in self.snapshot.counted.get(name, ()) if until > at)
        return divide_calls(max(0, self.limits[name].calls - counting), self.rank, self.among)

    def _used(self, limit: RateLimit, at: float) -> int:
        return sum(since + limit.counted_s > at for since in self.own)


def limits_by_name(log: CallLog, configured: RateLimit | None) -> dict[str, RateLimit]:
    """Return every limit that holds, by name."""
    return {**log.advertised, **({CONFIGURED: configured} if configured else {})}
