"""A test that hangs fails instead, wherever it hangs: in the test, in a fixture, or in what ends them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from types import FrameType

import pytest

_LIMIT_S = 120.0


class TestHungError(BaseException):
    """The test took too long. No `except Exception` on the way takes it for something else."""

    __test__ = False


def _hung(_: int, frame: FrameType | None) -> None:
    at = f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else "nowhere"
    raise TestHungError(f"not done within {_LIMIT_S:g}s, now at {at}")


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """Bound the test and all of its fixtures."""
    before = signal.signal(signal.SIGALRM, _hung)
    signal.setitimer(signal.ITIMER_REAL, _LIMIT_S)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
