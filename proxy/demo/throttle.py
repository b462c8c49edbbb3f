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
class Window:
    """When the current window began, in seconds, and how many calls it has granted."""

    began: float = -math.inf
    granted: int = 0


@dataclass(frozen=True, slots=True)
class Granted:
    """The call goes ahead; *remain* more may follow in this window."""

    remain: int

    def header(self, policy: ThrottlePolicy) -> str:
        """Return the value of ``X-Apig-RateLimit-User``."""
        return f"remain:{self.remain},limit:{policy.limit},time:{policy.period}"


@dataclass(frozen=True, slots=True)
class Throttled:
    """The call is refused with 429; a refused call uses nothing up."""

    policy: ThrottlePolicy


def step(policy: ThrottlePolicy, window: Window, *, now: float) -> tuple[Granted | Throttled, Window]:
    """Return what becomes of one call at *now*, and the window after it. A clock that steps back begins a window."""
    if not window.began <= now < window.began + policy.window_s:
        window = Window(began=now)
    if window.granted >= policy.limit:
        return Throttled(policy), window
    window = Window(window.began, window.granted + 1)
    return Granted(policy.limit - window.granted), window


DEMO_POLICY = ThrottlePolicy(limit=200, window_s=60)
"""Roomy for a person at a keyboard, and soon met by a crawl that asks page by page."""
