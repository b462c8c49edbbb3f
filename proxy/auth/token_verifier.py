"""Verifies tokens with IAM and caches what it says: one call for a token at a time, and never past its expiry.

A token is known by its digest; the token itself is kept nowhere.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Protocol

from proxy.caching.bounded import TTLMap
from proxy.caching.collapsing import RequestCollapser
from proxy.core.freshness import TrustPeriod
from proxy.core.values import immutable
from proxy.errors import ProxyError, StoreUnavailableError
from proxy.upstream.keystone import TokenInfo

_MAX_TOKENS: Final = 10_000
# How long a token that IAM refused is refused unasked, seconds, so that a flood of bad tokens is none on IAM.
REJECTED_TOKEN_TTL_S: Final = 10.0
_REVOKED_TOKEN_TTL_S: Final = 600.0  # longer than anyone waits for another's fetch
_TAG_PREFIX: Final = "token:"


class TokenInfoSource(Protocol):
    """Who says what tokens stand for."""

    async def fetch_token_info(self, token: str) -> TokenInfo | None:
        """Return what *token* stands for, None where it is not valid; raises `ProxyError` where that can't be said."""
        ...


@immutable
class CachedTokenInfo:
    """What IAM said of a token, believed until *trusted_until* (epoch seconds) without asking again.

    *generation* is the one in which IAM was asked: a new one begins when invalidations may have been missed.
    """

    token_info: TokenInfo
    trusted_until: float
    generation: int


class TokenVerifier:
    """Believes IAM's verdicts as *trust* says. *publish_tags* is given the scopes that every replica has to hear of."""

    def __init__(
        self,
        source: TokenInfoSource,
        *,
        trust: TrustPeriod,
        publish_tags: Callable[[list[str]], Awaitable[None]],
        clock: Callable[[], float],
    ) -> None:
        self._source = source
        self._trust = trust
        self._publish_tags = publish_tags
        self._clock = clock
        self._token_infos: TTLMap[CachedTokenInfo] = TTLMap(_MAX_TOKENS)
        self._rejected_tokens: TTLMap[bool] = TTLMap(_MAX_TOKENS)
        self._revoked_tokens: TTLMap[bool] = TTLMap(_MAX_TOKENS)
        self._collapser: RequestCollapser[CachedTokenInfo | None] = RequestCollapser()
        self._generation = 0
        self._current_lookups: dict[str, object] = {}  # by digest, those under way that nothing was dropped since

    async def close(self) -> None:
        """End the questions that are under way."""
        await self._collapser.close()

    async def verify_token(self, token: str, digest: str) -> CachedTokenInfo | None:
        """Return what *token*, which has that *digest*, stands for; None where IAM refuses it.

        Raises `ProxyError` where IAM can't say it, and has not lately enough.
        """
        now = self._clock()
        if self._rejected_tokens.get(digest, now=now):
            return None
        known = self._token_infos.get(digest, now=now)
        # Left of it may be more than it had where the clock was set back: then nobody knows how old it is.
        if known and known.generation == self._generation and 0 < known.trusted_until - now <= self._trust.ttl_s + 1:
            return known
        lookup_id = self._current_lookups.setdefault(digest, object())
        try:
            return await self._collapser.join(
                (digest, lookup_id), lambda: self._fetch_token_info(token, digest, lookup_id)
            )
        except ProxyError:
            # Looked up again: it may have been dropped while IAM was asked.
            if known and self._token_infos.get(digest, now=self._clock()):
                return known
            raise

    async def revoke_token(self, digest: str, *, force: bool = False) -> None:
        """Forget the verdict of a token, in every replica; unless *force*, only where one is known here.

        Who sends made-up tokens must not make replicas talk.
        """
        known = self._token_infos.get(digest, now=self._clock()) is not None
        self._forget_token(digest)
        if known or force:
            try:
                await self._publish_tags([_TAG_PREFIX + digest])
            except StoreUnavailableError:
                return

    def is_revoked(self, digest: str) -> bool:
        """Whether what was known of a token was dropped lately, and IAM has not vouched for it since."""
        return self._revoked_tokens.get(digest, now=self._clock()) is not None

    def apply_invalidation(self, tags: Iterable[str] | None) -> None:
        """Other replicas invalidated *tags*; None says that messages may have been missed.

        Then every verdict is asked for anew, and believed only while IAM is away.
        """
        if tags is None:
            self._generation += 1
            return
        for tag in tags:
            if tag.startswith(_TAG_PREFIX):
                self._forget_token(tag.removeprefix(_TAG_PREFIX))

    def _forget_token(self, digest: str) -> None:
        # A question that is under way was asked before this, so nobody else joins it.
        under_way = self._current_lookups.pop(digest, None) is not None
        now = self._clock()
        if under_way or self._token_infos.get(digest, now=now):
            self._revoked_tokens.put(digest, True, until=now + _REVOKED_TOKEN_TTL_S)
        self._token_infos.forget(digest)

    async def _fetch_token_info(self, token: str, digest: str, lookup_id: object) -> CachedTokenInfo | None:
        now, run = self._clock(), self._generation
        try:
            found = await self._source.fetch_token_info(token)
        finally:
            is_current = self._current_lookups.get(digest) is lookup_id
            if is_current:
                del self._current_lookups[digest]
        if found is None or found.expires_at <= self._clock():
            self._token_infos.forget(digest)
            self._rejected_tokens.put(digest, True, until=self._clock() + REJECTED_TOKEN_TTL_S)
            return None
        until = now + self._trust.ttl_s
        known = CachedTokenInfo(found, min(until, found.expires_at), run)
        if is_current:
            self._revoked_tokens.forget(digest)
            self._token_infos.put(digest, known, until=min(until + self._trust.grace_s, found.expires_at))
        return known
