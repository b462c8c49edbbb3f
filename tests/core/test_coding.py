"""Which content coding a caller gets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.coding import CODINGS, chosen


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        pytest.param(None, None, id="no field, as old clients send"),
        pytest.param("", None, id="an empty field"),
        pytest.param("gzip", "gzip", id="gzip"),
        pytest.param("GZIP", "gzip", id="case does not count"),
        pytest.param("x-gzip", "gzip", id="its old name"),
        pytest.param("gzip, deflate", "gzip", id="among others"),
        pytest.param("deflate, br", None, id="only what is not made here"),
        pytest.param("identity", None, id="identity"),
        pytest.param("gzip;q=0", None, id="refused"),
        pytest.param("gzip;q=0.000", None, id="refused at length"),
        pytest.param("gzip;q=0.001", "gzip", id="the least weight"),
        pytest.param("gzip;q=1.000", "gzip", id="the most weight"),
        pytest.param("gzip ; q=0.5 , identity ; q=0.4", "gzip", id="liked better than identity"),
        pytest.param("gzip;q=0.4, identity;q=0.5", None, id="liked less than identity"),
        pytest.param("gzip;q=0.5, identity;q=0.5", "gzip", id="liked as well as identity"),
        pytest.param("gzip;q=2", None, id="a weight beyond one"),
        pytest.param("gzip;q=0.0001", None, id="a weight too fine"),
        pytest.param("gzip;q=-1", None, id="a negative weight"),
        pytest.param("gzip;q=high", None, id="a word"),
        pytest.param("gzip;q=", None, id="an empty weight"),
        pytest.param("gzip;q=.5", None, id="a weight without its zero"),
        pytest.param("gzip, identity;q=0", "gzip", id="identity refused"),
        pytest.param("*;q=0", None, id="anything refused"),
        pytest.param("gzip;q=0, *", "other", id="anything but gzip"),
    ],
)
def test_the_coding_follows_the_weights(accepted: str | None, coding: str | None) -> None:
    """Gzip is used where it is accepted and not liked less than identity; a malformed weight refuses."""
    if coding == "other":
        assert chosen(accepted) != "gzip"
    else:
        assert chosen(accepted) == coding


def test_anything_is_one_of_ours() -> None:
    """A star accepts whatever is made here."""
    assert chosen("*") in CODINGS


@given(st.text(max_size=30))
def test_any_field_gives_a_coding_made_here(accepted: str) -> None:
    """No value makes the choice fail or invent a coding."""
    assert chosen(accepted) in (*CODINGS, None)
