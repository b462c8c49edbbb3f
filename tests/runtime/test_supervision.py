"""When a process that ended is started anew."""

from __future__ import annotations

from proxy.runtime.supervision import EXIT_PERIOD_S, MAX_EXITS, ExitHistory, GiveUp, Restart


def test_pauses_double() -> None:
    """Each end within a minute doubles the pause, and one too many is the last."""
    ends, pauses = ExitHistory(), []
    for _ in range(MAX_EXITS):
        verdict, ends = ends.record_exit(now=10.0)
        assert isinstance(verdict, Restart)
        pauses.append(round(verdict.restart_at - 10.0, 3))
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6]
    verdict, ends = ends.record_exit(now=10.0)
    assert verdict == GiveUp(MAX_EXITS + 1)


def test_long_ago_does_not_count() -> None:
    """A process that dies now and then is always started anew, soon."""
    ends = ExitHistory()
    for number in range(3 * MAX_EXITS):
        now = number * EXIT_PERIOD_S
        verdict, ends = ends.record_exit(now=now)
        assert verdict == Restart(now + 0.1)
