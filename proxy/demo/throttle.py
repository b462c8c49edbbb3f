"""Huawei Cloud's throttling: so many calls per window for each project, and 429 for the rest."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ThrottlePolicy:
    """At most *limit* calls in every *window_s* seconds; windows follow each other, they don't slide."""

    limit: int
    window_s: int = 60

    @property
    def period(self) -> str:
        """The window as the gateway words it: ``5 minute``, ``30 second``."""
        return f"{self.window_s // 60} minute" if self.window_s % 60 == 0 else f"{self.window_s} second"

    @property
    def message(self) -> str:
        """What APIGW.0308 says (IMS API reference, error codes)."""
        return (
            "The throttling threshold has been reached: "
            f"policy user over ratelimit,limit:{self.limit},time:{self.period}"
        )


@dataclass(frozen=True, slots=True)
class ThrottleWindow:
    """When the current window began, in seconds, and how many calls it has granted."""

    started_at: float = -math.inf
    granted_count: int = 0


@dataclass(frozen=True, slots=True)
class Granted:
    """The call goes ahead; *remaining* more may follow in this window."""

    remaining: int

    def header_value(self, policy: ThrottlePolicy) -> str:
        """Return the value of ``X-Apig-RateLimit-User``."""
        return f"remain:{self.remaining},limit:{policy.limit},time:{policy.period}"


@dataclass(frozen=True, slots=True)
class Throttled:
    """The call is refused with 429; a refused call uses nothing up."""

    policy: ThrottlePolicy


def throttle_call(
    policy: ThrottlePolicy, window: ThrottleWindow, *, now: float
) -> tuple[Granted | Throttled, ThrottleWindow]:
    """Return what becomes of one call at *now*, and the window after it. A clock that steps back begins a window."""
    if not window.started_at <= now < window.started_at + policy.window_s:
        window = ThrottleWindow(started_at=now)
    if window.granted_count >= policy.limit:
        return Throttled(policy), window
    window = ThrottleWindow(window.started_at, window.granted_count + 1)
    return Granted(policy.limit - window.granted_count), window


DEMO_POLICY = ThrottlePolicy(limit=200, window_s=60)
"""Roomy for a person at a keyboard, and soon met by a crawl that asks page by page."""
