"""What the upstream said of callers' credentials, and what follows for what is stored."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from proxy.caching.bounded import Memo
from proxy.core.cache_key import partition_scope
from proxy.core.freshness import Standing, Verdicts
from proxy.core.partition import Partition, Who
from proxy.errors import StoreUnavailableError
from proxy.storage.base import SpanStore

_REMEMBERED: Final = 10_000
_MOST_SHOWN: Final = 100_000

# Forgets IAM's verdict of a token by its digest; if True, in every replica, whether or not it is known here.
Drop = Callable[[str, bool], Awaitable[None]]


class Credentials:
    """Believes the upstream's acceptance of a credential as *verdicts* says, unless somebody else vouches for it.

    *rejections* is part of the epoch that remembered answers are valid in: it grows with a 401 to a credential that has
    been shown something. Anyone can make up tokens and be answered 401, and that must not end everybody's remembered
    answers, so each credential is noted before it is first shown anything, and a 401 to any other one does not count.
    When too many are noted, all are forgotten, and *rejections* grows once for all of them.
    """

    def __init__(
        self, store: SpanStore, *, verdicts: Verdicts, clock: Callable[[], float], drop: Drop | None = None
    ) -> None:
        self._store = store
        self._verdicts = verdicts
        self._clock = clock
        self._drop = drop
        self._accepted: Memo[float] = Memo(_REMEMBERED)
        self._shown: set[str] = set()
        self.rejections = 0

    def shown(self, who: Who) -> None:
        """Note that this credential is about to be shown something."""
        name = _name(who)
        if name not in self._shown:
            if len(self._shown) >= _MOST_SHOWN:
                self._shown.clear()
                self.rejections += 1
            self._shown.add(name)

    def accepted(self, who: Who, *, sent_at: float) -> None:
        """The upstream accepted this credential, at some moment between *sent_at* and now; the earliest counts."""
        if sent_at >= (self._accepted.get(who.partition, now=self._clock()) or 0.0):
            until = sent_at + self._verdicts.ttl_s + self._verdicts.grace_s
            self._accepted.put(who.partition, sent_at, until=until)

    async def rejected(self, who: Who, *, surely: bool = False) -> None:
        """The upstream answered 401 to this credential: forget what let it see anything, everywhere.

        With IAM that is its verdict on this token alone, since other tokens share the partition. Without, it is all
        that is stored for the partition. *surely* does it even if nothing is known of the credential here.
        """
        if surely or _name(who) in self._shown:
            self.rejections += 1
        if who.token is not None and self._drop is not None:
            await self._drop(who.token, surely)
        elif not who.verified:
            await self._dropped(who.partition, surely)

    async def _dropped(self, partition: Partition, surely: bool) -> None:
        now = self._clock()
        known = self._accepted.get(partition, now=now) is not None
        self._accepted.forget(partition)
        scope = partition_scope(partition)
        try:
            # Who sends made-up tokens must not make replicas talk: only where there is something to drop.
            if surely or known or await self._store.count(scope, now=now):
                await self._store.invalidate([scope], now=now)
        except StoreUnavailableError:
            return  # and so nothing is known of it here, nor found while the store is away

    def bound(self, standing: Standing, who: Who, *, fetched_at: float) -> Standing:
        """Return *standing* of what was fetched then, lowered where the credential was last accepted too long ago."""
        if who.verified:
            return standing
        now = self._clock()
        return self._verdicts.bound(standing, accepted_at=self._accepted_at(who, fetched_at), now=now)

    def believed_until(self, who: Who, *, fetched_at: float) -> float:
        """Return until when what was fetched then may be given to *who* without anything being asked."""
        if who.verified:
            return who.believed_until
        return min(who.believed_until, self._accepted_at(who, fetched_at) + self._verdicts.ttl_s)

    def _accepted_at(self, who: Who, fetched_at: float) -> float:
        return max(fetched_at, self._accepted.get(who.partition, now=self._clock()) or 0.0)


def _name(who: Who) -> str:
    return who.token or who.partition.digest
