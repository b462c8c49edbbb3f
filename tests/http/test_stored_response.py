"""Age, lifetime, and what an answer may still be used for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.core.freshness import Freshness
from proxy.core.messages import Fields
from proxy.http.stored_response import FreshnessPolicy, freshness_lifetime_s, initial_age_s
from tests.support.stored_responses import AT_NOW, NOW, an_answer

Lines = list[tuple[str, str]]
LONG_AGO = ("Last-Modified", "Wed, 31 Dec 2025 23:43:20 GMT")  # 1000 s


@pytest.mark.parametrize(
    ("lines", "lifetime_s"),
    [
        pytest.param([("Cache-Control", "max-age=60"), ("Expires", "0")], 60.0, id="max-age before Expires"),
        pytest.param([AT_NOW, ("Expires", "Thu, 01 Jan 2026 00:01:40 GMT")], 100.0, id="Expires less Date"),
        pytest.param([("Expires", "Thu, 01 Jan 2026 00:01:40 GMT")], 100.0, id="no Date: since it was received"),
        pytest.param([AT_NOW, ("Expires", "Wed, 31 Dec 2025 00:00:00 GMT")], 0.0, id="in the past"),
        pytest.param([AT_NOW, ("Expires", "0")], 0.0, id="Expires malformed"),
        pytest.param([AT_NOW, *[("Expires", "Thu, 01 Jan 2026 00:01:40 GMT")] * 2], 0.0, id="Expires twice"),
        pytest.param([AT_NOW, LONG_AGO], None, id="no heuristics"),
        pytest.param([AT_NOW], None, id="nothing stated"),
        pytest.param(
            [("CDN-Cache-Control", "foo"), ("Expires", "Thu, 01 Jan 2026 00:01:40 GMT")],
            None,
            id="targeted: no Expires",
        ),
    ],
)
def test_a_stated_lifetime(lines: Lines, lifetime_s: float | None) -> None:
    """What the upstream states counts, read as carefully as can be."""
    assert freshness_lifetime_s(200, Fields(lines), FreshnessPolicy(), response_time=NOW) == lifetime_s


@pytest.mark.parametrize(
    ("policy", "status", "cache_control", "lifetime_s"),
    [
        (FreshnessPolicy(ttl_s=30.0), 200, "", 30.0),
        (FreshnessPolicy(ttl_s=30.0), 404, "", None),
        (FreshnessPolicy(ttl_s=30.0), 200, "max-age=5", 5.0),
        (FreshnessPolicy(heuristic_fraction=0.1), 200, "", 100.0),
        (FreshnessPolicy(heuristic_fraction=0.1), 404, "", 100.0),
        (FreshnessPolicy(heuristic_fraction=0.1), 403, "", None),
        (FreshnessPolicy(heuristic_fraction=0.1), 599, "public", 100.0),
        (FreshnessPolicy(ttl_s=30.0, heuristic_fraction=0.1), 200, "", 100.0),
    ],
)
def test_an_unstated_lifetime(
    policy: FreshnessPolicy, status: int, cache_control: str, lifetime_s: float | None
) -> None:
    """The route's own lifetime, or its heuristics, count where the upstream states none, and for few statuses."""
    fields = Fields([AT_NOW, LONG_AGO, ("Cache-Control", cache_control)])
    assert freshness_lifetime_s(status, fields, policy, response_time=NOW) == lifetime_s


@pytest.mark.parametrize(
    ("lines", "age_s"),
    [
        pytest.param([], 2.0, id="the time it took"),
        pytest.param([("Age", "30")], 32.0, id="Age and the time it took"),
        pytest.param([("Age", "30, 7")], 32.0, id="the first of a list"),
        pytest.param([("Age", "30"), ("Age", "700")], 32.0, id="the first line"),
        pytest.param([("Age", "3.5")], 2.0, id="a fraction is none"),
        pytest.param([("Age", "-5")], 2.0, id="negative is none"),
        pytest.param([("Age", "30;x=1")], 2.0, id="a parameter makes it none"),
        pytest.param([("Date", "Wed, 31 Dec 2025 23:58:20 GMT")], 100.0, id="by its Date"),
        pytest.param([("Date", "Thu, 01 Jan 2026 01:00:00 GMT")], 2.0, id="a Date in the future"),
        pytest.param([("Date", "soon")], 2.0, id="a Date malformed"),
    ],
)
def test_the_age_when_it_was_received(lines: Lines, age_s: float) -> None:
    """RFC 9111 §4.2.3, of an answer that took two seconds."""
    assert initial_age_s(Fields(lines), request_time=NOW - 2, response_time=NOW) == age_s


def test_it_ages_with_the_clock_and_never_backwards() -> None:
    """A clock that steps back makes nothing younger than it came."""
    answer = an_answer(("Cache-Control", "max-age=60"), ("Age", "10"))
    assert [answer.current_age_s(now=NOW + late) for late in (-100, 0, 7)] == [10.0, 10.0, 17.0]
    assert answer.fresh_until == NOW + 50


@pytest.mark.parametrize(
    ("cache_control", "late_s", "expected"),
    [
        ("max-age=60", 59, Freshness.FRESH),
        ("max-age=60", 60, Freshness.STALE_WHILE_REVALIDATE),
        ("max-age=60", 69, Freshness.STALE_WHILE_REVALIDATE),
        ("max-age=60", 70, Freshness.STALE_IF_ERROR),
        ("max-age=60", 89, Freshness.STALE_IF_ERROR),
        ("max-age=60", 90, Freshness.EXPIRED),
        ("max-age=60, no-cache", 0, Freshness.EXPIRED),
        ("max-age=60, must-revalidate", 59, Freshness.FRESH),
        ("max-age=60, must-revalidate", 60, Freshness.EXPIRED),
        ("s-maxage=60", 60, Freshness.EXPIRED),
        ("max-age=60, stale-while-revalidate=0, stale-if-error=5", 64, Freshness.STALE_IF_ERROR),
        ("max-age=60, stale-while-revalidate=100", 159, Freshness.STALE_WHILE_REVALIDATE),
        ("max-age=60, stale-while-revalidate=soon", 60, Freshness.STALE_IF_ERROR),
    ],
)
def test_what_it_may_be_used_for(cache_control: str, late_s: float, expected: Freshness) -> None:
    """Fresh, then in the windows of RFC 5861, the answer's own before the route's."""
    policy = FreshnessPolicy(stale_while_revalidate_s=10.0, stale_if_error_s=30.0)
    answer = an_answer(("Cache-Control", cache_control))
    assert answer.freshness(policy, now=NOW + late_s) is expected


@pytest.mark.parametrize(
    ("lines", "of_use_s"),
    [
        pytest.param([("Cache-Control", "max-age=60")], 90.0, id="as long as it may be given stale"),
        pytest.param([("Cache-Control", "max-age=60, must-revalidate")], 60.0, id="never stale"),
        pytest.param([("Cache-Control", "max-age=60"), ("ETag", '"a"')], 3660.0, id="as long as it can be asked about"),
        pytest.param([("Cache-Control", "max-age=99999999")], 86400.0, id="a day at the most"),
    ],
)
def test_how_long_it_is_of_use(lines: Lines, of_use_s: float) -> None:
    """No store keeps it for longer."""
    policy = FreshnessPolicy(stale_while_revalidate_s=10.0, stale_if_error_s=30.0)
    assert an_answer(*lines).useful_s(policy, now=NOW) == of_use_s


def test_what_was_received_stale_is_of_no_use_before_it_came() -> None:
    """Its age counts against its lifetime, not the time it is kept for."""
    answer = replace(an_answer(("Cache-Control", "max-age=60"), ("Age", "500")))
    assert answer.freshness(FreshnessPolicy(), now=NOW) is Freshness.EXPIRED
    assert answer.useful_s(FreshnessPolicy(), now=NOW) == 0.0
