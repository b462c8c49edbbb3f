"""What a list request is answered with, and how that came about."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from proxy.core.cache_status import CacheStatus, Fwd
from proxy.core.messages import Response
from proxy.core.span import Page
from proxy.core.values import immutable
from proxy.listing.fetcher import Fetched


@immutable
class Repeatable:
    """Leave to repeat an answer, without asking the gateway, to every request whose decisive fields are the same.

    `proxy.gateway.relevant_headers` says which fields those are. The leave ends *until* then, with the answer's
    lifetime or its caller's admission, and at once when `ListingGateway.epoch` changes. The answer's age counts from
    *fetched_at*, and it is fresh until *fresh_until*; all three are epoch seconds. Whoever repeats the answer calls
    *used* now and then, or the store will take its spans for something that nobody asks for any more.

    Where memory keeps no bodies, *again* makes the body anew and returns None if it would be a different one. Called
    with False, for an answer without a body (HEAD, 304), it returns empty bytes in place of the body. *used* and
    *again* keep about *holds_bytes* in memory.
    """

    fetched_at: float
    fresh_until: float
    until: float
    used: Callable[[], None] = field(default=lambda: None, compare=False)
    again: Callable[[bool], Awaitable[bytes | None]] | None = field(default=None, compare=False)
    holds_bytes: int = field(default=0, compare=False)


@immutable
class Listed:
    """A page, or the upstream's answer in its place, and how it came about."""

    page: Page | None
    answer: Response | None
    cache_status: CacheStatus
    age_s: float = 0.0
    ttl_s: float = 0.0
    repeatable: Repeatable | None = None


@dataclass(slots=True)
class Trail:
    """How a page came about, for `Cache-Status`."""

    fwd: Fwd | None = None
    fwd_status: int | None = None
    stored: bool = False
    collapsed: bool = False
    detail: str | None = None

    def fetched(self, fetched: Fetched, *, follows: bool) -> None:
        """A fetch ended."""
        self.fwd_status, self.detail = fetched.status, fetched.detail
        self.collapsed |= follows
        self.stored |= fetched.stored and not follows

    def status(self, ttl_s: float | None = None) -> CacheStatus:
        """Return what is told to the caller."""
        return CacheStatus(self.fwd, self.fwd_status, ttl_s, self.stored, self.collapsed, self.detail)
