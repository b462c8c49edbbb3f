"""When to call again after a failure, and when to leave the upstream alone."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Final

from proxy.core.values import immutable

# Statuses that say that the call was not carried out, or not to its end (RFC 9110 §15.6).
TRANSIENT: Final = frozenset({502, 503, 504})


def backoff_s(attempt: int, *, dice: float, first_s: float = 0.1, longest_s: float = 5.0) -> float:
    """Return the pause before try *attempt*, from 1 on: full jitter, so that callers who failed together spread out."""
    return dice * min(longest_s, first_s * 2.0 ** min(attempt, 32))


@immutable
class Retries:
    """A share of the traffic that retries may be: each first call adds a *share*, each retry takes one away.

    Without such a bound an upstream that fails under load gets the more of it the more it fails.
    """

    saved: float = 10.0
    share: float = 0.2
    most: float = 10.0

    def called(self) -> Retries:
        """Return what is left after a first call."""
        return replace(self, saved=min(self.most, self.saved + self.share)) if self.saved < self.most else self

    def taken(self) -> Retries | None:
        """Return what is left after a retry, None where there is none left."""
        return replace(self, saved=self.saved - 1.0) if self.saved >= 1.0 else None


@immutable
class Breaker:
    """Circuit breaker: opens when an upstream failed *tolerated* times in a row, for a pause, and then for one probe.

    The pause doubles with each probe that fails, up to *longest_s*: an upstream that is back is seen soon after that.
    """

    failures: int = 0
    open_until: float = -inf
    pause_s: float = 1.0
    tolerated: int = 10
    longest_s: float = 4.0

    @property
    def opened(self) -> bool:
        """Whether the latest calls failed: then who calls is a probe."""
        return self.failures >= self.tolerated

    def asked(self, *, probe_s: float, now: float) -> tuple[float, Breaker]:
        """Return how long to stay away, 0 to call now, and the breaker with that call.

        A probe whose end is not told within *probe_s* is taken for lost.
        """
        if not self.opened:
            return 0.0, self
        left_s = self.open_until - now
        if 0 < left_s <= max(self.pause_s, probe_s):  # a longer time is left only where the clock was set back
            return left_s, self
        return 0.0, replace(self, open_until=now + probe_s)

    def failed(self, *, now: float) -> Breaker:
        """Return the breaker after a call that failed."""
        failures = self.failures + 1
        if failures < self.tolerated:
            return replace(self, failures=failures)
        pause_s = min(self.longest_s, 2 * self.pause_s) if self.opened else self.pause_s
        return replace(self, failures=failures, open_until=now + pause_s, pause_s=pause_s)

    def abandoned(self, *, now: float) -> Breaker:
        """Return the breaker after a call whose caller went away: if it was a probe, another may follow."""
        return replace(self, open_until=now) if self.opened else self

    def half_opened(self, *, now: float) -> Breaker:
        """Return the breaker once the upstream replies, if not yet to what failed: the next caller is the probe."""
        return replace(self, open_until=now) if self.opened else self

    def succeeded(self) -> Breaker:
        """Return the breaker after a call that was answered."""
        return Breaker(tolerated=self.tolerated, longest_s=self.longest_s) if self.failures else self


CLOSED: Final = Breaker()
