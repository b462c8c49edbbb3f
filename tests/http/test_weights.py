"""Weights in `Accept` fields."""

from __future__ import annotations

import pytest

from proxy.http.negotiation import parse_weights


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("", {}, id="nothing"),
        pytest.param(" , ,", {}, id="empty members"),
        pytest.param("gzip", {"gzip": 1.0}, id="without a weight"),
        pytest.param("GZIP ; Q=0.5 , br", {"gzip": 0.5, "br": 1.0}, id="case and blanks say nothing"),
        pytest.param("text/html;level=1;q=0.25", {"text/html": 0.25}, id="among other parameters"),
        pytest.param("a;q=0, b;q=0.000, c;q=1.000", {"a": 0.0, "b": 0.0, "c": 1.0}, id="the ends"),
        pytest.param("a;q=2, b;q=0.1234, c;q=much, d;q=", dict.fromkeys("abcd", 0.0), id="malformed is 0"),
        pytest.param("a;q=0.1, a;q=0.9", {"a": 0.9}, id="the last of two"),
    ],
)
def test_weights_are_read(value: str, expected: dict[str, float]) -> None:
    """Each member has the weight that is stated, 1 without one, 0 for what can't be read."""
    assert parse_weights(value) == expected
