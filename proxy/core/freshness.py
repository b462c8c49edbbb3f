"""How old an answer is, and what it may still be used for (RFC 9111 §4.2, RFC 5861)."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from proxy.core.span import Span
from proxy.core.values import immutable

TTL_JITTER: Final = 0.1
_HEURISTIC_FRACTION: Final = 0.1
# What `stale-if-error` counts as an error (RFC 5861 §4), and a throttled call, which is one for the caller too.
ERROR_STATUSES: Final = frozenset({429, 500, 502, 503, 504})
_MAX_SKEW_S: Final = 60.0  # how far replicas' clocks may be apart


class Freshness(IntEnum):
    """What a stored span may be used for; a higher one may be used for all that a lower one may."""

    EXPIRED = 0  # to know where a marker stood
    STALE_IF_ERROR = 1  # to answer with while the upstream fails (RFC 5861 §4)
    STALE_WHILE_REVALIDATE = 2  # to answer with while it is fetched anew (RFC 5861 §3)
    FRESH = 3


@immutable
class Lifetimes:
    """How long a list may be used, seconds: *ttl_s* fresh, then stale in two windows that both begin at its end.

    *transient_ttl_s* takes the place of *ttl_s* while an image in the list is about to change. The longer it has been
    about to, the less likely it is to change now, so the lifetime is a tenth of that time if that is more, as in
    heuristic freshness (RFC 9111 §4.2.2), and at most *ttl_s*: an image that stays `queued` for ever costs nothing.
    """

    ttl_s: float
    transient_ttl_s: float = 2.0
    stale_while_revalidate_s: float = 0.0
    stale_if_error_s: float = 0.0

    def freshness_lifetime_s(
        self, *, changes_pending: bool, transient_since: float | None, now: float, jitter: float
    ) -> float:
        """Return the lifetime of a span fetched at *now*; *jitter*, from 0 to 1, takes up to a tenth off it.

        Spans that were filled together would otherwise expire together. *changes_pending* says that a job was begun
        lately which will change lists; *transient_since* see `proxy.listing.response_parser.ParsedList`.
        """
        ttl_s = self.ttl_s
        if changes_pending:
            ttl_s = min(ttl_s, self.transient_ttl_s)
        if transient_since is not None:
            ttl_s = min(ttl_s, max(self.transient_ttl_s, _HEURISTIC_FRACTION * (now - transient_since)))
        return ttl_s * (1.0 - TTL_JITTER * jitter)

    @property
    def max_stale_s(self) -> float:
        """How long a span is of any use after its lifetime."""
        return max(self.stale_while_revalidate_s, self.stale_if_error_s)


@immutable
class TrustPeriod:
    """How long the upstream's acceptance of a credential is believed, seconds; *grace_s* more while it fails.

    OSSN-0056: whoever caches such a verdict serves a revoked token until it ends, so 0 asks every time.
    """

    ttl_s: float
    grace_s: float = 0.0

    def limit_freshness(self, freshness: Freshness, *, accepted_at: float, now: float) -> Freshness:
        """Return *freshness*, lowered where the credential was last accepted too long ago.

        A moment that is still to come counts as too long ago: the clock was set back, and nobody knows by how much.
        """
        if accepted_at - now > _MAX_SKEW_S:
            return Freshness.EXPIRED
        age_s = max(0.0, now - accepted_at)
        if age_s < self.ttl_s:
            return freshness
        return min(freshness, Freshness.STALE_IF_ERROR) if age_s < self.ttl_s + self.grace_s else Freshness.EXPIRED


def current_age(fetched_at: float, *, now: float) -> float:
    """Return the age in seconds, counted from when the request was sent; a clock that steps back makes it 0."""
    return max(0.0, now - fetched_at)


def head_valid_until(*, age_s: float, ttl_s: float, now: float) -> float:
    """Return until when the head of an answer given at *now* stays true: `Date`, `Age` and `max-age` are in seconds."""
    return now + min(1.0 - now % 1.0, 1.0 - age_s % 1.0, ttl_s % 1.0)


def span_freshness(span: Span, lifetimes: Lifetimes, *, generation: str, now: float) -> Freshness:
    """Return what *span* may be used for at *now*; one of another *generation* was invalidated since."""
    stale_s = current_age(span.fetched_at, now=now) - span.lifetime_s
    if span.generation != generation:
        return Freshness.EXPIRED
    if stale_s < 0:
        return Freshness.FRESH
    return stale_freshness(stale_s, revalidate_s=lifetimes.stale_while_revalidate_s, error_s=lifetimes.stale_if_error_s)


def stale_freshness(stale_s: float, *, revalidate_s: float, error_s: float) -> Freshness:
    """Return what may still be done with something that became stale *stale_s* ago, by its two windows (RFC 5861)."""
    if stale_s < revalidate_s:
        return Freshness.STALE_WHILE_REVALIDATE
    return Freshness.STALE_IF_ERROR if stale_s < error_s else Freshness.EXPIRED
