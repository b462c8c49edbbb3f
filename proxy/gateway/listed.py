"""What a list request is answered with, and how that came about."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from proxy.core.listing import Page
from proxy.core.messages import Response
from proxy.core.policy import CacheStatus, Fwd
from proxy.core.values import immutable
from proxy.gateway.fetching import Fetched


@immutable
class Repeatable:
    """That the same may be answered to every request that is the same in what is decisive (`proxy.core.decisive`),
    unless `ListingGateway.epoch` changes; epoch seconds.

    It may be done *until* the page's lifetime or its caller's admission ends. The page's age counts from *fetched_at*,
    and it is fresh until *fresh_until*. Who repeats it is to say now and then that it is *used*, or the store takes it
    for something that nobody asks for any more.

    Where no bodies are kept, *again* makes this one anew, or says None where it would be another; asked for none, as
    HEAD and a 304 have, it only says whether. About *holds_bytes* stay in memory for the sake of these two.
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
