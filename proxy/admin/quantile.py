"""Quantiles from a histogram, as good as its buckets are narrow."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf


def quantile(share: float, bounds: Sequence[float], counts: Sequence[float]) -> float | None:
    """Return the value that *share* of the observations do not exceed, None where there are none.

    Bucket i counts, in *counts*, what lies above `bounds[i - 1]` and not above `bounds[i]`; within it observations are
    taken to be spread evenly. The last bound is infinity: of what lies there only its lower end is known.
    """
    rank = share * sum(counts)
    if rank <= 0:
        return None
    lower = below = 0.0
    for upper, count in zip(bounds, counts, strict=True):
        if below + count >= rank:
            return lower if upper == inf else lower + (upper - lower) * (rank - below) / count
        lower, below = upper, below + count
    return lower
