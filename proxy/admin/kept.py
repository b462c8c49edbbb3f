"""What workers counted, kept so that sums never go back when a worker dies or does not answer.

A reader takes a counter that went back for one that began anew at 0 (Prometheus' `rate`): everything that the other
workers had counted before would seem to have happened since.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from prometheus_client import Metric

_COUNTED: Final = frozenset({"counter", "histogram"})

Families = Sequence[Metric]


class Kept:
    """What each worker said last, and what those counted that ended; *add* adds up."""

    def __init__(self, add: Callable[[Sequence[Families]], Families]) -> None:
        self._add = add
        self._latest: dict[int, Families] = {}
        self._ended: list[Families] = []

    def taken(self, said: Sequence[Families | None]) -> list[Families]:
        """Return what to add up now that each worker *said* this, None where it did not answer."""
        now: list[Families] = []
        for number, families in enumerate(said):
            before = self._latest.get(number, ())
            if families is None:
                now.append(counts(before))
                continue
            if _went_back(before, families):
                self._ended = [self._add([*self._ended, counts(before)])]
            self._latest[number] = families
            now.append(families)
        return [*now, *self._ended]


def counts(families: Families) -> list[Metric]:
    """Return those of *families* that only grow."""
    return [family for family in families if family.type in _COUNTED]


def _went_back(before: Families, now: Families) -> bool:
    """Whether *now* is said by a process that began after *before* was said."""
    values = _values(counts(now))
    return any(values.get(name, 0.0) < value for name, value in _values(counts(before)).items())


def _values(families: Families) -> Mapping[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sample.labels.items())): sample.value for family in families for sample in family.samples
    }
