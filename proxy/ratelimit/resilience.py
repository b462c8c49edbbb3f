"""When to call again after a failure, and when to leave the upstream alone."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Final

from proxy.core.values import immutable

# Statuses that say that the call was not carried out, or not to its end (RFC 9110 §15.6).
TRANSIENT_STATUSES: Final = frozenset({502, 503, 504})


def backoff_s(attempt: int, *, rng: float, first_s: float = 0.1, longest_s: float = 5.0) -> float:
    """Return the pause before try *attempt*, from 1 on: full jitter, so that callers who failed together spread out."""
    return rng * min(longest_s, first_s * 2.0 ** min(attempt, 32))


@immutable
class RetryBudget:
    """A share of the traffic that retries may be: each first call adds a *share*, each retry takes one away.

    Without such a bound an upstream that fails under load gets the more of it the more it fails.
    """

    balance: float = 10.0
    share: float = 0.2
    max_balance: float = 10.0

    def record_call(self) -> RetryBudget:
        """Return what is left after a first call."""
        return (
            replace(self, balance=min(self.max_balance, self.balance + self.share))
            if self.balance < self.max_balance
            else self
        )

    def try_take(self) -> RetryBudget | None:
        """Return what is left after a retry, None where there is none left."""
        return replace(self, balance=self.balance - 1.0) if self.balance >= 1.0 else None


@immutable
class UpstreamCircuit:
    """Circuit breaker: opens when an upstream failed *max_failures* times in a row, for a pause, and then for one
    probe.

    The pause doubles with each probe that fails, up to *max_pause_s*: an upstream that is back is seen soon after that.
    """

    failures: int = 0
    open_until: float = -inf
    pause_s: float = 1.0
    max_failures: int = 10
    max_pause_s: float = 4.0

    @property
    def is_open(self) -> bool:
        """Whether the latest calls failed: then who calls is a probe."""
        return self.failures >= self.max_failures

    def try_call(self, *, probe_s: float, now: float) -> tuple[float, UpstreamCircuit]:
        """Return how long to stay away, 0 to call now, and the breaker with that call.

        A probe whose end is not told within *probe_s* is taken for lost.
        """
        if not self.is_open:
            return 0.0, self
        left_s = self.open_until - now
        if 0 < left_s <= max(self.pause_s, probe_s):  # a longer time is left only where the clock was set back
            return left_s, self
        return 0.0, replace(self, open_until=now + probe_s)

    def record_failure(self, *, now: float) -> UpstreamCircuit:
        """Return the breaker after a call that failed."""
        failures = self.failures + 1
        if failures < self.max_failures:
            return replace(self, failures=failures)
        pause_s = min(self.max_pause_s, 2 * self.pause_s) if self.is_open else self.pause_s
        return replace(self, failures=failures, open_until=now + pause_s, pause_s=pause_s)

    def record_abandoned(self, *, now: float) -> UpstreamCircuit:
        """Return the breaker after a call whose caller went away: if it was a probe, another may follow."""
        return replace(self, open_until=now) if self.is_open else self

    def half_open(self, *, now: float) -> UpstreamCircuit:
        """Return the breaker once the upstream replies, if not yet to what failed: the next caller is the probe."""
        return replace(self, open_until=now) if self.is_open else self

    def record_success(self) -> UpstreamCircuit:
        """Return the breaker after a call that was answered."""
        return UpstreamCircuit(max_failures=self.max_failures, max_pause_s=self.max_pause_s) if self.failures else self


CLOSED_CIRCUIT: Final = UpstreamCircuit()
