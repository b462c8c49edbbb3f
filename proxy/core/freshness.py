"""How old an answer is, and how long it may be given (RFC 9111 §4.2, RFC 5861)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

JITTER: Final = 0.1


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """Lifetimes in seconds: of a list span, and of one in which an image is about to change."""

    ttl_s: float
    transient_ttl_s: float

    def of(self, *, transient: bool, dice: float) -> float:
        """Return the lifetime of a span fetched now; *dice*, from 0 to 1, takes up to a tenth off it.

        Spans that were filled together would otherwise expire together.
        """
        ttl_s = min(self.ttl_s, self.transient_ttl_s) if transient else self.ttl_s
        return ttl_s * (1.0 - JITTER * dice)


def current_age(fetched_at: float, *, now: float) -> float:
    """Return the age in seconds, counted from when the request was sent; a clock that steps back makes it 0."""
    return max(0.0, now - fetched_at)
