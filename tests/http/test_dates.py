"""Dates are read to the letter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.messages import Fields
from proxy.http.dates import parse_http_date, with_date
from tests.support.stored_responses import NOW


@pytest.mark.parametrize(
    "text",
    [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
        "SUN, 06 nov 1994 08:49:37 gmt",
    ],
)
def test_the_three_forms_are_one_moment(text: str) -> None:
    """All that RFC 9110 §5.6.7 allows is read, whatever its case."""
    assert parse_http_date(text, now=NOW) == 784111777.0


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("0", id="a number"),
        pytest.param("Sun, 06 Nov 1994 08:49:37 UTC", id="another zone"),
        pytest.param("Sun, 06 Nov 1994 08:49:37 +0000", id="an offset"),
        pytest.param("Sun, 06 Nov 1994 08:49:37", id="no zone"),
        pytest.param("Sun, 06 Nov 94 08:49:37 GMT", id="a year of two digits"),
        pytest.param("Sun 06 Nov 1994 08:49:37 GMT", id="no comma"),
        pytest.param("Sun, 06  Nov  1994 08:49:37 GMT", id="two spaces"),
        pytest.param("Sun, 06-Nov-1994 08:49:37 GMT", id="dashes"),
        pytest.param("Sun, 06 Nov 1994 08.49.37 GMT", id="full stops"),
        pytest.param("Sun, 06 Nov 1994 8:49:37 GMT", id="an hour of one digit"),
        pytest.param("Sun, 31 Feb 1994 08:49:37 GMT", id="no such day"),
        pytest.param("Sun, 06 Now 1994 08:49:37 GMT", id="no such month"),
        pytest.param("Sun, 06 Nov 1994 25:49:37 GMT", id="no such hour"),
        pytest.param(" Sun, 06 Nov 1994 08:49:37 GMT", id="a space before"),
        pytest.param("Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT", id="twice"),
    ],
)
def test_what_is_nearly_a_date_is_none(text: str) -> None:
    """Where others might read it otherwise, nothing is read."""
    assert parse_http_date(text, now=NOW) is None


def test_a_year_of_two_digits_is_at_most_fifty_years_ahead() -> None:
    """In 2026, 76 is 2076 and 77 is 1977."""
    ahead = parse_http_date("Wednesday, 01-Jan-76 00:00:00 GMT", now=NOW)
    past = parse_http_date("Saturday, 01-Jan-77 00:00:00 GMT", now=NOW)
    assert ahead is not None
    assert past is not None
    assert past < NOW < ahead


@given(st.integers(0, 4102444800))
def test_a_date_that_was_put_in_is_read_back(moment: int) -> None:
    """Whatever the moment, in whole seconds."""
    (value,) = with_date(Fields(), now=float(moment)).get_all("date")
    assert parse_http_date(value, now=NOW) == moment


@pytest.mark.parametrize("given", ["foo", ""])
def test_a_date_that_says_nothing_is_replaced(given: str) -> None:
    """One that can be read stays as it is."""
    assert with_date(Fields([("Date", given)]), now=NOW).get_all("date") == ["Thu, 01 Jan 2026 00:00:00 GMT"]
    theirs = Fields([("date", "Sun, 06 Nov 1994 08:49:37 GMT")])
    assert with_date(theirs, now=NOW) == theirs
