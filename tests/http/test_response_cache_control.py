"""What a response says of being stored."""

from __future__ import annotations

import pytest

from proxy.core.messages import Fields
from proxy.http.cache_control import MAX_DELTA_SECONDS, ResponseDirectives, parse_response_directives


def said(*values: str, targeted: str | None = None) -> ResponseDirectives:
    """Return what lines of `Cache-Control` say beside a field for caches like this."""
    lines = [("Cache-Control", value) for value in values]
    return parse_response_directives(
        Fields([*lines, ("CDN-Cache-Control", targeted)] if targeted is not None else lines)
    )


@pytest.mark.parametrize(
    ("value", "max_age_s"),
    [
        pytest.param("max-age=60", 60.0, id="plain"),
        pytest.param("MaX-aGe=0060", 60.0, id="case and zeros"),
        pytest.param('max-age="60"', 60.0, id="quoted"),
        pytest.param("foobar, max-age=60", 60.0, id="an extension"),
        pytest.param('x="max-age=9", max-age=60', 60.0, id="inside a string"),
        pytest.param("max-age=60, max-age=5", 5.0, id="twice"),
        pytest.param("max-age=60, s-maxage=5", 5.0, id="for shared caches"),
        pytest.param("s-maxage=60, max-age=0", 60.0, id="for shared caches, longer"),
        pytest.param(f"max-age={9 * 10**10}", MAX_DELTA_SECONDS, id="too long"),
        pytest.param(f"max-age={'9' * 400}", MAX_DELTA_SECONDS, id="beyond all numbers"),
        pytest.param("max-age=soon", 0.0, id="malformed is stale"),
        pytest.param("max-age=-60", 0.0, id="negative"),
        pytest.param("max-age='60'", 0.0, id="in single quotes"),
        pytest.param("max-age=60.5", 0.0, id="a fraction"),
        pytest.param("max-age= 60", 0.0, id="a space behind ="),
        pytest.param("max-age", 0.0, id="no value"),
        pytest.param("private", None, id="not there"),
    ],
)
def test_the_lifetime_is_read_carefully(value: str, max_age_s: float | None) -> None:
    """What is malformed or said twice makes an answer live shorter, never longer."""
    assert said(value).max_age_s == max_age_s


def test_lines_are_one_field() -> None:
    """Directives on several lines are as good as on one."""
    assert said("no-store", "max-age=5, must-revalidate") == said("no-store, max-age=5, must-revalidate")


def test_directives_that_name_fields_withhold_those_only() -> None:
    """`no-cache` and `private` with names say nothing of the rest."""
    named = said('no-cache="Set-Cookie, A", private="B"')
    assert (named.no_cache, named.private, named.restricted_fields) == (
        False,
        False,
        frozenset({"set-cookie", "a", "b"}),
    )
    whole = said('no-cache, private, no-cache="A"')
    assert (whole.no_cache, whole.private) == (True, True)


@pytest.mark.parametrize(
    ("value", "never_stale"),
    [
        ("must-revalidate", True),
        ("proxy-revalidate", True),
        ("no-cache", True),
        ("s-maxage=1", True),
        ("max-age=1", False),
    ],
)
def test_some_answers_may_never_be_given_stale(value: str, never_stale: bool) -> None:
    """RFC 9111 §4.2.4 names them."""
    assert said(value).forbids_stale is never_stale


def test_what_is_said_to_us_replaces_what_is_said_to_all() -> None:
    """RFC 9213: a valid targeted field counts alone."""
    made = said("no-store, max-age=1", targeted="max-age=60, stale-if-error=5")
    assert (made.max_age_s, made.no_store, made.stale_if_error_s, made.is_targeted) == (60.0, False, 5.0, True)
    assert said("max-age=60", targeted="private").private
    assert said("max-age=60", targeted="s-maxage=5, max-age=9").has_s_maxage


@pytest.mark.parametrize("value", ["", "max-age=60, &&", 'max-age="60"', "max-age=?1", "max-age=6.5", "MAX-AGE=60"])
def test_a_targeted_field_with_a_fault_is_not_there(value: str) -> None:
    """Neither half of it counts, but `Cache-Control` does."""
    assert said("no-store", targeted=value) == said("no-store")
