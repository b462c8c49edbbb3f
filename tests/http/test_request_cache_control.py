"""What a caller's `Cache-Control` asks for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.messages import Fields
from proxy.http.cache_control import NO_DIRECTIVES, RequestDirectives, parse_request_directives


def said(*lines: str) -> RequestDirectives:
    return parse_request_directives(Fields([("Cache-Control", line) for line in lines]))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param([], NO_DIRECTIVES, id="nothing"),
        pytest.param([""], NO_DIRECTIVES, id="an empty field"),
        pytest.param(["no-cache"], RequestDirectives(max_age_s=0.0), id="no-cache"),
        pytest.param(["NO-CACHE"], RequestDirectives(max_age_s=0.0), id="in any case"),
        pytest.param(["no-store"], RequestDirectives(no_store=True), id="no-store"),
        pytest.param(["only-if-cached"], RequestDirectives(only_if_cached=True), id="only-if-cached"),
        pytest.param(["max-age=10"], RequestDirectives(max_age_s=10.0), id="max-age"),
        pytest.param(['max-age="10"'], RequestDirectives(max_age_s=10.0), id="max-age in quotes"),
        pytest.param(["max-age=soon"], RequestDirectives(max_age_s=0.0), id="a malformed age is 0"),
        pytest.param(["max-age=-1"], RequestDirectives(max_age_s=0.0), id="a negative age is 0"),
        pytest.param(["max-age"], RequestDirectives(max_age_s=0.0), id="an age that is missing is 0"),
        pytest.param(["max-age=1.5"], RequestDirectives(max_age_s=0.0), id="a fraction is 0"),
        pytest.param(["max-age=5, no-cache"], RequestDirectives(max_age_s=0.0), id="no-cache is stricter"),
        pytest.param(["max-age=5, max-age=9"], RequestDirectives(max_age_s=5.0), id="the first of two"),
        pytest.param(["min-fresh=7"], RequestDirectives(min_fresh_s=7.0), id="min-fresh"),
        pytest.param(
            ["max-age=5", "only-if-cached"], RequestDirectives(max_age_s=5.0, only_if_cached=True), id="two lines"
        ),
        pytest.param(["x=1, foo, no-store"], RequestDirectives(no_store=True), id="unknown ones are passed over"),
        pytest.param(["max-stale=5"], NO_DIRECTIVES, id="max-stale permits, it does not ask"),
    ],
)
def test_directives_are_read(lines: list[str], expected: RequestDirectives) -> None:
    """Each directive that asks for something is understood, alone and in lists."""
    assert said(*lines) == expected


@pytest.mark.parametrize(
    ("wishes", "age_s", "left_s", "excluded"),
    [
        pytest.param(NO_DIRECTIVES, 1e9, -1e9, False, id="who asks for nothing takes anything"),
        pytest.param(RequestDirectives(max_age_s=10.0), 10.0, 5.0, False, id="as old as it may be"),
        pytest.param(RequestDirectives(max_age_s=10.0), 10.1, 5.0, True, id="older"),
        pytest.param(RequestDirectives(max_age_s=0.0), 0.0, 5.0, True, id="max-age=0 wants none that is stored"),
        pytest.param(RequestDirectives(min_fresh_s=7.0), 1.0, 7.0, False, id="fresh for long enough"),
        pytest.param(RequestDirectives(min_fresh_s=7.0), 1.0, 6.9, True, id="not fresh for long enough"),
        pytest.param(RequestDirectives(min_fresh_s=0.0), 9.0, -1.0, False, id="min-fresh=0 lets stale ones pass"),
    ],
)
def test_answers_are_excluded_by_age_and_by_what_is_left(
    wishes: RequestDirectives, age_s: float, left_s: float, excluded: bool
) -> None:
    """An answer older than `max-age`, or fresh for less than `min-fresh`, is not for this caller."""
    assert wishes.excludes(age_s=age_s, left_s=left_s) is excluded


def test_pragma_counts_where_there_is_no_cache_control() -> None:
    """HTTP/1.0's `Pragma: no-cache` is no-cache, unless `Cache-Control` says something."""
    assert parse_request_directives(Fields([("Pragma", "no-cache")])) == RequestDirectives(max_age_s=0.0)
    assert parse_request_directives(
        Fields([("Pragma", "no-cache"), ("Cache-Control", "max-age=5")])
    ) == RequestDirectives(max_age_s=5.0)
    assert parse_request_directives(Fields([("Pragma", "other")])) == NO_DIRECTIVES


@given(st.lists(st.text(max_size=40), max_size=3))
def test_any_field_is_read(lines: list[str]) -> None:
    """No value makes the reading fail, or gives a negative bound."""
    read = said(*lines)
    assert read.min_fresh_s >= 0
    assert read.max_age_s is None or read.max_age_s >= 0
