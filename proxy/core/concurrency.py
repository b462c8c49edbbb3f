"""How many calls to have under way at once: as many as do not make the upstream slower."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

from proxy.core.values import immutable

_TOLERANCE = 2.0  # lists differ in length, and so in how long they take
_SMOOTHING = 0.2
_LONG = 1 / 100
_SHORT = 1 / 10


@immutable
class Concurrency:
    """A limit that follows latency, between *least* and *most*: the long mean of it over the short one (gradient).

    While answers take as long as ever the limit grows by its square root, room for a queue; when they take longer it
    shrinks in proportion. It does not grow while it is not made use of.
    """

    most: int
    limit: float = 8.0
    least: int = 2
    short_s: float = 0.0
    long_s: float = 0.0

    @property
    def calls(self) -> int:
        """How many calls may be under way."""
        return max(1, min(self.most, int(self.limit)))

    def answered(self, elapsed_s: float, *, under_way: int) -> Concurrency:
        """Return the limit after an answer that took *elapsed_s*, of *under_way* calls."""
        short_s = elapsed_s if not self.short_s else self.short_s + _SHORT * (elapsed_s - self.short_s)
        long_s = elapsed_s if not self.long_s else self.long_s + _LONG * (elapsed_s - self.long_s)
        long_s = min(long_s, 2.0 * short_s)  # after a slow spell, forget it
        gradient = max(0.5, min(1.0, _TOLERANCE * long_s / short_s)) if short_s > 0 else 1.0
        if gradient == 1.0 and under_way < self.calls / 2:
            return Concurrency(self.most, self.limit, self.least, short_s, long_s)
        wanted = self.limit * gradient + sqrt(self.limit)
        limit = self.limit + _SMOOTHING * (wanted - self.limit)
        return Concurrency(self.most, self._bounded(limit), self.least, short_s, long_s)

    def failed(self) -> Concurrency:
        """Return the limit after a call that was not answered, or not in time."""
        return replace(self, limit=self._bounded(self.limit * 0.7))

    def _bounded(self, limit: float) -> float:
        return max(float(min(self.least, self.most)), min(float(self.most), limit))
