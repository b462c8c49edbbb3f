"""Whether the upstream accepts a credential, and what that means for stored answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from proxy.caching.bounded import TTLMap
from proxy.core.cache_key import partition_tag
from proxy.core.freshness import Freshness, TrustPeriod
from proxy.core.partition import Partition, Principal
from proxy.errors import StoreUnavailableError
from proxy.storage.base import SpanStore

_MAX_ACCEPTED_PARTITIONS: Final = 10_000
_MAX_SERVED_CREDENTIALS: Final = 100_000

# Forgets IAM's verdict of a token by its digest; if True, in every replica, whether or not it is known here.
RevokeToken = Callable[[str, bool], Awaitable[None]]


class TokenAcceptance:
    """Believes the upstream's acceptance of a credential as *trust* says, unless somebody else vouches for it.

    *rejection_count* is part of the epoch that remembered answers are valid in: it grows with a 401 to a credential
    that has been shown something. Anyone can make up tokens and be answered 401, and that must not end everybody's
    remembered answers, so each credential is noted before it is first shown anything, and a 401 to any other one does
    not count. When too many are noted, all are forgotten, and *rejection_count* grows once for all of them.
    """

    def __init__(
        self,
        store: SpanStore,
        *,
        trust: TrustPeriod,
        clock: Callable[[], float],
        revoke_token: RevokeToken | None = None,
    ) -> None:
        self._store = store
        self._trust = trust
        self._clock = clock
        self._revoke_token = revoke_token
        self._acceptance_times: TTLMap[float] = TTLMap(_MAX_ACCEPTED_PARTITIONS)
        self._served_credentials: set[str] = set()
        self.rejection_count = 0

    def mark_served(self, principal: Principal) -> None:
        """Record that this credential is about to be given a stored answer."""
        name = _credential_id(principal)
        if name not in self._served_credentials:
            if len(self._served_credentials) >= _MAX_SERVED_CREDENTIALS:
                self._served_credentials.clear()
                self.rejection_count += 1
            self._served_credentials.add(name)

    def record_acceptance(self, principal: Principal, *, sent_at: float) -> None:
        """Record that the upstream accepted this credential between *sent_at* and now; the earliest moment counts."""
        if sent_at >= (self._acceptance_times.get(principal.partition, now=self._clock()) or 0.0):
            until = sent_at + self._trust.ttl_s + self._trust.grace_s
            self._acceptance_times.put(principal.partition, sent_at, until=until)

    async def record_rejection(self, principal: Principal, *, force: bool = False) -> None:
        """The upstream answered 401 to this credential: forget what let it see anything, everywhere.

        With IAM that is its verdict on this token alone, since other tokens share the partition. Without, it is all
        that is stored for the partition. *force* does it even if nothing is known of the credential here.
        """
        if force or _credential_id(principal) in self._served_credentials:
            self.rejection_count += 1
        if principal.token_digest is not None and self._revoke_token is not None:
            await self._revoke_token(principal.token_digest, force)
        elif not principal.is_verified:
            await self._invalidate_partition(principal.partition, force)

    async def _invalidate_partition(self, partition: Partition, force: bool) -> None:
        now = self._clock()
        is_known = self._acceptance_times.get(partition, now=now) is not None
        self._acceptance_times.forget(partition)
        tag = partition_tag(partition)
        try:
            # Who sends made-up tokens must not make replicas talk: only where there is something to drop.
            if force or is_known or await self._store.count_listings(tag, now=now):
                await self._store.invalidate([tag], now=now)
        except StoreUnavailableError:
            return  # and so nothing is known of it here, nor found while the store is away

    def limit_freshness(self, freshness: Freshness, principal: Principal, *, fetched_at: float) -> Freshness:
        """Return *freshness* of what was fetched then, lowered where the credential was last accepted too long ago."""
        if principal.is_verified:
            return freshness
        now = self._clock()
        return self._trust.limit_freshness(freshness, accepted_at=self._accepted_at(principal, fetched_at), now=now)

    def trusted_until(self, principal: Principal, *, fetched_at: float) -> float:
        """Return until when what was fetched then may be given to *principal* without anything being asked."""
        if principal.is_verified:
            return principal.trusted_until
        return min(principal.trusted_until, self._accepted_at(principal, fetched_at) + self._trust.ttl_s)

    def _accepted_at(self, principal: Principal, fetched_at: float) -> float:
        return max(fetched_at, self._acceptance_times.get(principal.partition, now=self._clock()) or 0.0)


def _credential_id(principal: Principal) -> str:
    return principal.token_digest or principal.partition.digest
