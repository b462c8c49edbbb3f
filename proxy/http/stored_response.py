"""A stored answer: how old it is, how long it is fresh, and what it may still be used for (RFC 9111 §4.2, RFC 5861)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from proxy.core.freshness import Freshness, stale_freshness
from proxy.core.messages import Fields
from proxy.core.values import immutable
from proxy.http.cache_control import MAX_DELTA_SECONDS, ResponseDirectives, parse_response_directives
from proxy.http.dates import parse_http_date

_CONTROL_CHARACTER: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_DELTA_SECONDS: Final = re.compile(r"[0-9]+", re.ASCII)
# What may be given a lifetime by its age since the last change (RFC 9110 §15.1), `public` or not.
HEURISTIC_STATUSES: Final = frozenset({200, 203, 204, 206, 300, 301, 308, 404, 405, 410, 414, 501})
# How long an answer that has a validator is kept beyond all other use, to be asked about; and the longest of all.
_VALIDATABLE_S: Final = 3600.0
_MAX_LIFETIME_S: Final = 86400.0

# Request fields by name, in lower case, and the value that selected an answer; None where there was none.
NominatedFields = tuple[tuple[str, str | None], ...]


@immutable
class FreshnessPolicy:
    """What counts where the upstream states nothing, seconds.

    *ttl_s* is the lifetime of a 200, *heuristic_fraction* the share of the time since its last change that an answer
    lives without one (RFC 9111 §4.2.2). The stale windows count unless the answer forbids them, or names its own.
    """

    ttl_s: float = 0.0
    heuristic_fraction: float = 0.0
    stale_while_revalidate_s: float = 0.0
    stale_if_error_s: float = 0.0


@dataclass(frozen=True)
class StoredResponse:
    """An answer as it was received between *request_time* and *response_time*, epoch seconds.

    *lifetime_s* is its freshness lifetime. *nominated* are the fields of the request that selected it,
    normalised; none where all that went up stands in its key.
    """

    status: int
    reason: str | None
    fields: Fields
    body: bytes
    request_time: float
    response_time: float
    lifetime_s: float
    nominated: NominatedFields = ()

    @cached_property
    def directives(self) -> ResponseDirectives:
        """What its fields say of being stored."""
        return parse_response_directives(self.fields)

    @cached_property
    def initial_age_s(self) -> float:
        """Its age when it was received (RFC 9111 §4.2.3)."""
        return initial_age_s(self.fields, request_time=self.request_time, response_time=self.response_time)

    @property
    def fresh_until(self) -> float:
        """When it becomes stale, epoch seconds; in the past for what was received stale."""
        return self.response_time + self.lifetime_s - self.initial_age_s

    def current_age_s(self, *, now: float) -> float:
        """Return its age (RFC 9111 §4.2.3); a clock that steps back does not make it younger than it was received."""
        return self.initial_age_s + max(0.0, now - self.response_time)

    def freshness(self, policy: FreshnessPolicy, *, now: float) -> Freshness:
        """Return what it may be used for at *now* without asking, but for what the caller wishes."""
        stale_s = self.current_age_s(now=now) - self.lifetime_s
        if stale_s < 0 and not self.directives.no_cache:
            return Freshness.FRESH
        if self.directives.forbids_stale:
            return Freshness.EXPIRED
        revalidate_s, error_s = self.stale_windows(policy)
        return stale_freshness(stale_s, revalidate_s=revalidate_s, error_s=error_s)

    def stale_windows(self, policy: FreshnessPolicy) -> tuple[float, float]:
        """Return how long after its lifetime it may be given while it is revalidated, and while the upstream fails."""
        if self.directives.forbids_stale:
            return 0.0, 0.0
        revalidate_s, error_s = self.directives.stale_while_revalidate_s, self.directives.stale_if_error_s
        return (
            policy.stale_while_revalidate_s if revalidate_s is None else revalidate_s,
            policy.stale_if_error_s if error_s is None else error_s,
        )

    def useful_s(self, policy: FreshnessPolicy, *, now: float) -> float:
        """Return for how long it is of any use from *now* on, to be asked about if for nothing else."""
        left_s = max(0.0, self.fresh_until - now)
        return min(
            _MAX_LIFETIME_S, left_s + max(*self.stale_windows(policy), _VALIDATABLE_S if any(self.validators) else 0.0)
        )

    @property
    def validators(self) -> tuple[str | None, str | None]:
        """Its entity tag and its date of last change, by which the upstream can be asked whether it still holds.

        One with a control character in it, which an upstream may send but no request (RFC 9110 §5.5), is none.
        """
        tag, changed = (self.fields.get(name) for name in ("etag", "last-modified"))
        return _if_sendable(tag), _if_sendable(changed)


def _if_sendable(value: str | None) -> str | None:
    return None if value is None or _CONTROL_CHARACTER.search(value) else value


def initial_age_s(fields: Fields, *, request_time: float, response_time: float) -> float:
    """Return `corrected_initial_age` (RFC 9111 §4.2.3)."""
    date = parse_http_date(fields.get("date") or "", now=response_time)
    apparent_age = max(0.0, response_time - date) if date is not None else 0.0
    response_delay = max(0.0, response_time - request_time)
    return max(apparent_age, _parse_age(fields) + response_delay)


def _parse_age(fields: Fields) -> float:
    """Return what `Age` states: the first of several, 0 for what is malformed (RFC 9111 §5.1)."""
    first = (fields.get("age") or "").partition(",")[0].strip(" \t")
    return min(MAX_DELTA_SECONDS, float(first)) if _DELTA_SECONDS.fullmatch(first) else 0.0


def freshness_lifetime_s(status: int, fields: Fields, policy: FreshnessPolicy, *, response_time: float) -> float | None:
    """Return the lifetime of an answer (RFC 9111 §4.2.1), None where nothing gives it one.

    A targeted field stands in the place of `Expires` too. What is repeated or malformed is stale.
    """
    said = parse_response_directives(fields)
    if said.max_age_s is not None:
        return said.max_age_s
    if not said.is_targeted and (expires := fields.get_all("expires")):
        until = parse_http_date(expires[0], now=response_time) if len(expires) == 1 else None
        date = parse_http_date(fields.get("date") or "", now=response_time)
        return max(0.0, until - (response_time if date is None else date)) if until is not None else 0.0
    return _heuristic_lifetime_s(status, fields, said, policy, response_time=response_time)


def _heuristic_lifetime_s(
    status: int, fields: Fields, said: ResponseDirectives, policy: FreshnessPolicy, *, response_time: float
) -> float | None:
    changed = parse_http_date(fields.get("last-modified") or "", now=response_time)
    if policy.heuristic_fraction > 0 and changed is not None and (status in HEURISTIC_STATUSES or said.public):
        return policy.heuristic_fraction * max(0.0, response_time - changed)
    return policy.ttl_s if status == 200 and policy.ttl_s > 0 else None
