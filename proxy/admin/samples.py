"""What the metrics say at a moment, to be added up by label."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from math import inf

from prometheus_client import Metric

from proxy.admin.quantile import quantile

Labels = Mapping[str, str]


class Samples:
    """The samples of *families*."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._samples: dict[str, list[tuple[Labels, float]]] = defaultdict(list)
        for family in families:
            for sample in family.samples:
                self._samples[sample.name].append((sample.labels, sample.value))

    def total(self, name: str, **having: Iterable[str]) -> int:
        """Return the sum of the samples of *name* whose labels are each among those given."""
        alike = (value for labels, value in self._samples[name] if all(labels[at] in having[at] for at in having))
        return int(sum(alike))

    def largest(self, name: str) -> float:
        """Return the largest of the samples of *name*, 0 where there is none."""
        return max((value for _, value in self._samples[name]), default=0.0)

    def by(self, name: str, label: str) -> dict[str, int]:
        """Return the sums of the samples of *name*, the largest first, by *label*."""
        sums: dict[str, float] = defaultdict(float)
        for labels, value in self._samples[name]:
            sums[labels[label]] += value
        return {at: int(value) for at, value in sorted(sums.items(), key=lambda each: (-each[1], each[0]))}

    def values(self, name: str, label: str) -> dict[str, float]:
        """Return the samples of *name* by *label*."""
        return {labels[label]: value for labels, value in self._samples[name]}

    def table(self, name: str, row: str, column: str) -> dict[str, dict[str, int]]:
        """Return the sums of the samples of *name* by the labels *row* and *column*."""
        sums: dict[str, dict[str, int]] = {}
        for labels, value in self._samples[name]:
            cells = sums.setdefault(labels[row], {})
            cells[labels[column]] = cells.get(labels[column], 0) + int(value)
        return sums

    def quantiles(self, name: str, shares: Iterable[float], **having: Iterable[str]) -> list[float | None]:
        """Return the quantiles of the histogram *name*, seconds, of the samples whose labels are among those given."""
        cumulative: dict[float, float] = defaultdict(float)
        for labels, value in self._samples[f"{name}_bucket"]:
            if all(labels[at] in having[at] for at in having):
                cumulative[float(labels["le"].replace("+Inf", "inf"))] += value
        bounds = sorted(cumulative)
        lower = [0.0, *(cumulative[bound] for bound in bounds)]
        counts = [cumulative[bound] - before for bound, before in zip(bounds, lower, strict=False)]
        return [quantile(share, bounds or [inf], counts or [0.0]) for share in shares]
