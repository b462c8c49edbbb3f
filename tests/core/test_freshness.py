"""How old an answer is, and what it may still be used for."""

from dataclasses import replace
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.freshness import Freshness, Lifetimes, TrustPeriod, current_age, span_freshness
from proxy.core.span import LIST_START
from tests.support.model import Model

LIFETIMES = Lifetimes(60.0, 2.0, stale_while_revalidate_s=30.0, stale_if_error_s=300.0)
SPAN = replace(Model(("a",)).span(LIST_START, 5), fetched_at=1000.0, lifetime_s=60.0, generation="7")
DICE = st.floats(0.0, 1.0)


@pytest.mark.parametrize(("now", "age"), [(1000.0, 0.0), (1012.5, 12.5), (990.0, 0.0)])
def test_age_counts_from_when_the_request_was_sent(now: float, age: float) -> None:
    """A clock that steps back makes nothing younger than new."""
    assert current_age(1000.0, now=now) == age


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        pytest.param(900.0, Freshness.FRESH, id="the clock stepped back"),
        pytest.param(1000.0, Freshness.FRESH, id="at once"),
        pytest.param(1059.9, Freshness.FRESH, id="shortly before its end"),
        pytest.param(1060.0, Freshness.STALE_WHILE_REVALIDATE, id="at its end"),
        pytest.param(1089.9, Freshness.STALE_WHILE_REVALIDATE, id="in the first window"),
        pytest.param(1090.0, Freshness.STALE_IF_ERROR, id="behind the first window"),
        pytest.param(1359.9, Freshness.STALE_IF_ERROR, id="in the second"),
        pytest.param(1360.0, Freshness.EXPIRED, id="behind both"),
    ],
)
def test_both_stale_windows_begin_at_the_end_of_the_lifetime(now: float, expected: Freshness) -> None:
    """Fresh, then stale while revalidated, then stale if there is an error, then gone (RFC 5861)."""
    assert span_freshness(SPAN, LIFETIMES, generation="7", now=now) is expected


def test_an_invalidated_span_is_gone_however_fresh() -> None:
    """Another generation means that a write came between."""
    assert span_freshness(SPAN, LIFETIMES, generation="8", now=1000.0) is Freshness.EXPIRED


def test_without_stale_windows_the_end_is_the_end() -> None:
    """Zero seconds are no window."""
    assert span_freshness(SPAN, Lifetimes(60.0), generation="7", now=1060.0) is Freshness.EXPIRED


@given(DICE, st.booleans())
def test_a_lifetime_is_shortened_by_a_tenth_at_most(dice: float, unsettled: bool) -> None:
    """Dice keep spans that were filled together from expiring together, and never make one live longer."""
    whole = 2.0 if unsettled else 60.0
    made = LIFETIMES.freshness_lifetime_s(changes_pending=unsettled, transient_since=None, now=1000.0, jitter=dice)
    assert 0.9 * whole <= made <= whole


@pytest.mark.parametrize(
    ("hung_s", "lifetime_s"),
    [
        pytest.param(0.0, 2.0, id="since now"),
        pytest.param(-50.0, 2.0, id="since a moment to come"),
        pytest.param(-inf, 2.0, id="since it can't be told when"),
        pytest.param(20.0, 2.0, id="for a little"),
        pytest.param(100.0, 10.0, id="for longer: a tenth of it"),
        pytest.param(10**9, 60.0, id="for ever: the ordinary lifetime"),
    ],
)
def test_an_image_that_hangs_costs_ever_less(hung_s: float, lifetime_s: float) -> None:
    """What has been about to change for long is the less likely to do so now."""
    made = LIFETIMES.freshness_lifetime_s(changes_pending=False, transient_since=10**9 - hung_s, now=10**9, jitter=0.0)
    assert made == lifetime_s


@pytest.mark.parametrize("transient_since", [None, 1000.0, 0.0, inf])
def test_a_job_that_began_lately_counts_however_long_an_image_hangs(transient_since: float | None) -> None:
    """An unsettled list lives for the transient lifetime at most."""
    assert (
        LIFETIMES.freshness_lifetime_s(changes_pending=True, transient_since=transient_since, now=1000.0, jitter=0.0)
        <= 2.0
    )


def test_a_transient_lifetime_never_exceeds_the_ordinary_one() -> None:
    """Where the lifetime itself is shorter it stays."""
    for ttl_s in (1.0, 0.0):
        made = Lifetimes(ttl_s, 2.0).freshness_lifetime_s(
            changes_pending=True, transient_since=0.0, now=10**9, jitter=0.0
        )
        assert made == ttl_s


def test_the_longer_stale_window_counts_for_keeping() -> None:
    """A span is kept for as long as either window may use it."""
    assert LIFETIMES.max_stale_s == 300.0
    assert Lifetimes(60.0, stale_while_revalidate_s=9.0).max_stale_s == 9.0


@pytest.mark.parametrize(
    ("verdicts", "age_s", "allowed"),
    [
        pytest.param(TrustPeriod(300.0), 299.0, Freshness.FRESH, id="believed"),
        pytest.param(TrustPeriod(300.0), 300.0, Freshness.EXPIRED, id="too old"),
        pytest.param(TrustPeriod(300.0, 60.0), 300.0, Freshness.STALE_IF_ERROR, id="in its grace"),
        pytest.param(TrustPeriod(300.0, 60.0), 360.0, Freshness.EXPIRED, id="behind its grace"),
        pytest.param(TrustPeriod(0.0), 0.0, Freshness.EXPIRED, id="asked every time"),
        pytest.param(TrustPeriod(300.0), -50.0, Freshness.FRESH, id="another replica's clock"),
        pytest.param(TrustPeriod(300.0, 60.0), -61.0, Freshness.EXPIRED, id="the clock was set back"),
    ],
)
def test_a_credential_is_believed_for_a_while(verdicts: TrustPeriod, age_s: float, allowed: Freshness) -> None:
    """An old acceptance lowers what its answers may be used for."""
    assert verdicts.limit_freshness(Freshness.FRESH, accepted_at=1000.0, now=1000.0 + age_s) is allowed


@given(st.sampled_from(Freshness), st.floats(0, 1000), st.floats(0, 500), st.floats(0, 500))
def test_a_verdict_never_raises_a_standing(before: Freshness, age_s: float, ttl_s: float, grace_s: float) -> None:
    """Belief in a credential makes no list younger."""
    assert TrustPeriod(ttl_s, grace_s).limit_freshness(before, accepted_at=0.0, now=age_s) <= before
