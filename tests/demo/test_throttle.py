"""So many calls a window, and no more."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.demo.throttle import Granted, Throttled, ThrottlePolicy, ThrottleWindow, throttle_call


@pytest.mark.parametrize(
    ("window_s", "period"), [(1, "1 second"), (30, "30 second"), (60, "1 minute"), (90, "90 second"), (300, "5 minute")]
)
def test_period(window_s: int, period: str) -> None:
    """A window is told in minutes where it is whole ones, else in seconds."""
    assert ThrottlePolicy(1, window_s).period == period


def test_calls_are_counted_down_then_refused_until_the_window_ends() -> None:
    """Calls beyond the limit are refused until a new window begins."""
    policy, window = ThrottlePolicy(limit=2, window_s=60), ThrottleWindow()
    verdicts = []
    for now in (100.0, 101.0, 102.0, 159.9, 160.0):
        verdict, window = throttle_call(policy, window, now=now)
        verdicts.append(verdict)
    assert verdicts == [Granted(1), Granted(0), Throttled(policy), Throttled(policy), Granted(1)]


def test_a_clock_that_steps_back_begins_a_window() -> None:
    """A time before the window is in a new one."""
    verdict, _ = throttle_call(ThrottlePolicy(limit=1), ThrottleWindow(started_at=100.0, granted_count=1), now=50.0)
    assert verdict == Granted(0)


def test_the_header_tells_what_is_left() -> None:
    """The header tells what is left, the limit and the period."""
    assert Granted(99).header_value(ThrottlePolicy(limit=100)) == "remain:99,limit:100,time:1 minute"


@given(
    limit=st.integers(0, 5),
    window_s=st.integers(1, 60),
    gaps=st.lists(st.integers(0, 20), max_size=60),
)
def test_no_window_grants_more_than_the_limit(limit: int, window_s: int, gaps: list[int]) -> None:
    """However calls come, no window grants more than its limit."""
    policy, window, now = ThrottlePolicy(limit, window_s), ThrottleWindow(), 0.0
    granted: dict[float, int] = {}
    for gap in gaps:
        now += gap
        verdict, window = throttle_call(policy, window, now=now)
        granted[window.started_at] = granted.get(window.started_at, 0) + isinstance(verdict, Granted)
    assert all(count <= limit for count in granted.values())
