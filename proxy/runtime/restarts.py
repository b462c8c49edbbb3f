"""When a process that ended is started anew, and when it is given up."""

from __future__ import annotations

from typing import Final

from proxy.core.values import immutable

_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 5.0
MOST: Final = 5
WITHIN_S: Final = 60.0


@immutable
class Restart:
    """Start it anew at the moment *at*."""

    at: float


@immutable
class GiveUp:
    """It ended *ends* times within a minute: starting it anew mends nothing."""

    ends: int


@immutable
class Ends:
    """When a process ended lately, seconds of a clock that never steps back."""

    lately: tuple[float, ...] = ()

    def ended(self, *, now: float) -> tuple[Restart | GiveUp, Ends]:
        """Return what follows from one more end at *now*: a pause that doubles with each, or no further start."""
        lately = (*(at for at in self.lately if now - at < WITHIN_S), now)
        if len(lately) > MOST:
            return GiveUp(len(lately)), Ends(lately)
        pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (len(lately) - 1))
        return Restart(now + pause_s), Ends(lately)
