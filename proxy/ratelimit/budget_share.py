"""The share of a budget that one replica may use while it can't reach the log that all replicas have in common.

Each replica knows how the budget stood when the store last answered. Of what was left then, and of what becomes free as
the calls of that time stop counting, it may use one part, by the number of replicas; the parts add up to the whole. At
any time a replica's own calls since then are fewer than

    share(calls - calls of that time that still count)

so all replicas that were told the same stay within the budget. One that was told earlier than another doesn't know what
was granted in between: each such call may be made again by that replica's part of it. `SharedLedger` states the bound.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import field
from math import inf

from proxy.core.call_context import Priority
from proxy.core.values import immutable
from proxy.ratelimit.sliding_window import CONFIGURED, LEAVES, Allowance, Log, divide_calls

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
