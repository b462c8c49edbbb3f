"""What may be stored."""

from __future__ import annotations

import pytest

from proxy.core.messages import Fields
from proxy.http.stored_response import FreshnessPolicy, freshness_lifetime_s
from proxy.resources.storability import unstorable_reason
from tests.support.stored_responses import NOW, an_answer

LASTS = ("Cache-Control", "max-age=60")
Lines = list[tuple[str, str]]


def why_not(
    lines: Lines,
    status: int = 200,
    *,
    authorized: bool = False,
    public: bool = False,
    by_rfc: bool = True,
    policy: FreshnessPolicy | None = None,
) -> str | None:
    """Return why an answer with *lines* is not stored."""
    answer = an_answer(*lines, status=status, policy=policy)
    lifetime_s = freshness_lifetime_s(status, Fields(lines), policy or FreshnessPolicy(), response_time=NOW)
    return unstorable_reason(answer, stated=lifetime_s is not None, authorized=authorized, public=public, by_rfc=by_rfc)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        pytest.param([LASTS], None, id="with a lifetime"),
        pytest.param([], "no-lifetime", id="without one"),
        pytest.param([("ETag", '"a"')], None, id="with a validator it can be asked about"),
        pytest.param([("Cache-Control", "max-age=0")], "no-lifetime", id="stale at once, and no validator"),
        pytest.param([("Cache-Control", "no-cache, max-age=60"), ("ETag", '"a"')], None, id="no-cache may be stored"),
        pytest.param([("Cache-Control", "no-store, max-age=60")], "no-store", id="no-store"),
        pytest.param([("Cache-Control", "private, max-age=60")], "private", id="private"),
        pytest.param([("Cache-Control", 'private="a", max-age=60')], None, id="private fields"),
        pytest.param([("Cache-Control", "no-store, max-age=60, must-understand")], None, id="understood"),
        pytest.param([LASTS, ("Vary", "*")], "vary", id="Vary *"),
        pytest.param([LASTS, ("Vary", "a, *")], "vary", id="Vary with a *"),
        pytest.param([LASTS, ("Set-Cookie", "a=b")], None, id="a cookie"),
    ],
)
def test_what_the_standard_alone_allows(lines: Lines, reason: str | None) -> None:
    """RFC 9111 §3 decides, and each no has a word."""
    assert why_not(lines) == reason


@pytest.mark.parametrize("status", [206, 304, 401, 403, 407, 429])
@pytest.mark.parametrize("by_rfc", [False, True])
def test_some_statuses_are_never_stored(status: int, by_rfc: bool) -> None:
    """What is about who asks or how often, and what is no whole answer, whatever it says of itself."""
    assert why_not([("Cache-Control", "public, max-age=60")], status, by_rfc=by_rfc) == "status"


@pytest.mark.parametrize("status", [204, 299, 302, 400, 404, 410, 500, 503, 599])
def test_errors_are_stored_only_where_the_standard_alone_decides(status: int) -> None:
    """For callers with credentials an error of the upstream's does not outlive it."""
    assert why_not([LASTS], status) is None
    assert why_not([LASTS], status, by_rfc=False) == "status"


@pytest.mark.parametrize(
    ("line", "reason"), [(("Set-Cookie", "a=b"), "cookie"), (("Content-Encoding", "gzip"), "coding")]
)
def test_what_is_one_caller_s_is_not_stored_for_others(line: tuple[str, str], reason: str) -> None:
    """A cookie is somebody's, and a coding was asked for by somebody."""
    assert why_not([LASTS, line], by_rfc=False) == reason


@pytest.mark.parametrize(
    ("value", "reason"),
    [("max-age=60", "authorization"), ("public, max-age=60", None), ("s-maxage=60", None),
     ("must-revalidate, max-age=60", None)],
)  # fmt: skip
def test_an_answer_to_authorization_has_to_say_that_it_is_for_all(value: str, reason: str | None) -> None:
    """RFC 9111 §3.5."""
    assert why_not([("Cache-Control", value)], authorized=True) == reason


def test_a_status_that_must_be_understood_is() -> None:
    """RFC 9111 §5.2.2.3."""
    assert why_not([("Cache-Control", "max-age=60, no-store, must-understand")], 599) == "must-understand"


def test_a_status_without_a_stated_lifetime_has_to_be_one_that_needs_none() -> None:
    """RFC 9111 §3: a validator alone makes no odd status storable."""
    assert why_not([("ETag", '"a"')], 299) == "no-lifetime"
    assert why_not([("ETag", '"a"'), ("Cache-Control", "public")], 299) is None


def test_the_route_s_lifetime_makes_an_answer_storable() -> None:
    """Where the upstream states nothing."""
    assert why_not([], policy=FreshnessPolicy(ttl_s=60.0), by_rfc=False) is None


@pytest.mark.parametrize("name", ["X-Auth-Token", "authorization", "Foo, Cookie", "X-API-Key"])
def test_what_depends_on_a_credential_is_nobody_else_s(name: str) -> None:
    """What is public can't depend on one, and no credential is kept to compare others with."""
    assert why_not([LASTS, ("Vary", name)], public=True) == "vary"
    assert why_not([LASTS, ("Vary", name)], by_rfc=False) is None


@pytest.mark.parametrize("by_rfc", [False, True])
def test_an_answer_that_holds_a_token_is_not_stored(by_rfc: bool) -> None:
    """IAM gives tokens in a field."""
    assert why_not([LASTS, ("X-Subject-Token", "t")], by_rfc=by_rfc) == "token"
