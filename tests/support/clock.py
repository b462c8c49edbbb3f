"""The time of day, held by a test: what it starts goes by it, and time passes when it says so."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest


@dataclass
class Clock:
    """Gives *now*, epoch seconds."""

    now: float

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of all that is started after it in this process; waits go on by the machine's own."""
    held = Clock(float(int(time.time())))  # whole seconds survive being written down
    monkeypatch.setattr(time, "time", held)
    return held
