"""Quantiles from histograms."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.admin.stats import quantile

BOUNDS = (1.0, 2.0, 4.0, inf)


@pytest.mark.parametrize(
    ("share", "counts", "expected"),
    [
        pytest.param(0.5, (0, 0, 0, 0), None, id="nothing was observed"),
        pytest.param(0.5, (10, 0, 0, 0), 0.5, id="half way into the first bucket"),
        pytest.param(0.5, (1, 2, 1, 0), 1.5, id="half way into a later one"),
        pytest.param(1.0, (1, 1, 1, 0), 4.0, id="the upper end of the last that holds anything"),
        pytest.param(0.99, (1, 0, 0, 99), 4.0, id="beyond the last bound only that is known"),
        pytest.param(0.25, (1, 0, 0, 3), 1.0, id="empty buckets are passed over"),
    ],
)
def test_values(share: float, counts: tuple[float, ...], expected: float | None) -> None:
    """Observations are spread evenly over their bucket."""
    assert quantile(share, BOUNDS, counts) == expected


@given(st.lists(st.integers(0, 1000), min_size=4, max_size=4), st.floats(0.01, 1.0), st.floats(0.01, 1.0))
def test_a_larger_share_is_never_below_a_smaller_one(counts: list[int], one: float, other: float) -> None:
    """Quantiles grow with the share, and stay within the bounds."""
    smaller, larger = (quantile(share, BOUNDS, counts) for share in sorted((one, other)))
    if smaller is None or larger is None:
        assert not sum(counts)
    else:
        assert 0.0 <= smaller <= larger <= 4.0
