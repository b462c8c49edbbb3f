"""What IAM says of tokens, remembered for a while: one flight for a token, and never past its end.

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
REFUSED_S: Final = 10.0
_REVOKED_S: Final = 600.0  # longer than anyone waits for another's fetch
_TAG_PREFIX: Final = "token:"


class TokenInfoSource(Protocol):
    """Who says what tokens stand for."""

    async def fetch_token_info(self, token: str) -> TokenInfo | None:
        """Return what *token* stands for, None where it is not valid; raises `ProxyError` where that can't be said."""
        ...


@immutable
class CachedTokenInfo:
    """A verdict, believed *until* then without asking anew, epoch seconds; *run* is when it was asked for.

    After messages of other replicas may have been missed, another run begins.
    """

    token_info: TokenInfo
    trusted_until: float
    run: int


class TokenVerifier:
    """Believes IAM's verdicts as *trust* says. *publish* is given the scopes that every replica has to hear of."""

    def __init__(
        self,
        source: TokenInfoSource,
        *,
        trust: TrustPeriod,
        publish: Callable[[list[str]], Awaitable[None]],
        clock: Callable[[], float],
    ) -> None:
        self._source = source
        self._trust = trust
        self._publish = publish
        self._clock = clock
        self._known: TTLMap[CachedTokenInfo] = TTLMap(_MAX_TOKENS)
        self._refused: TTLMap[bool] = TTLMap(_MAX_TOKENS)
        self._revoked: TTLMap[bool] = TTLMap(_MAX_TOKENS)
        self._collapser: RequestCollapser[CachedTokenInfo | None] = RequestCollapser()
        self._run = 0
        self._questions: dict[str, object] = {}  # by digest, those under way that nothing was dropped since

    async def close(self) -> None:
        """End the questions that are under way."""
        await self._collapser.close()

    async def verify(self, token: str, digest: str) -> CachedTokenInfo | None:
        """Return what *token*, which has that *digest*, stands for; None where IAM refuses it.

        Raises `ProxyError` where IAM can't say it, and has not lately enough.
        """
        now = self._clock()
        if self._refused.get(digest, now=now):
            return None
        known = self._known.get(digest, now=now)
        # Left of it may be more than it had where the clock was set back: then nobody knows how old it is.
        if known and known.run == self._run and 0 < known.trusted_until - now <= self._trust.ttl_s + 1:
            return known
        question = self._questions.setdefault(digest, object())
        try:
            return await self._collapser.join((digest, question), lambda: self._ask_source(token, digest, question))
        except ProxyError:
            # Looked up again: it may have been dropped while IAM was asked.
            if known and self._known.get(digest, now=self._clock()):
                return known
            raise

    async def revoke(self, digest: str, *, certain: bool = False) -> None:
        """Forget the verdict of a token, in every replica; unless *certain*, only where one is known here.

        Who sends made-up tokens must not make replicas talk.
        """
        known = self._known.get(digest, now=self._clock()) is not None
        self._forget(digest)
        if known or certain:
            try:
                await self._publish([_TAG_PREFIX + digest])
            except StoreUnavailableError:
                return

    def is_revoked(self, digest: str) -> bool:
        """Whether what was known of a token was dropped lately, and IAM has not vouched for it since."""
        return self._revoked.get(digest, now=self._clock()) is not None

    def apply_invalidation(self, tags: Iterable[str] | None) -> None:
        """Other replicas invalidated *tags*; None says that messages may have been missed.

        Then every verdict is asked for anew, and believed only while IAM is away.
        """
        if tags is None:
            self._run += 1
            return
        for scope in tags:
            if scope.startswith(_TAG_PREFIX):
                self._forget(scope.removeprefix(_TAG_PREFIX))

    def _forget(self, digest: str) -> None:
        # A question that is under way was asked before this, so nobody else joins it.
        under_way = self._questions.pop(digest, None) is not None
        now = self._clock()
        if under_way or self._known.get(digest, now=now):
            self._revoked.put(digest, True, until=now + _REVOKED_S)
        self._known.forget(digest)

    async def _ask_source(self, token: str, digest: str, question: object) -> CachedTokenInfo | None:
        now, run = self._clock(), self._run
        try:
            found = await self._source.fetch_token_info(token)
        finally:
            counts = self._questions.get(digest) is question
            if counts:
                del self._questions[digest]
        if found is None or found.expires_at <= self._clock():
            self._known.forget(digest)
            self._refused.put(digest, True, until=self._clock() + REFUSED_S)
            return None
        until = now + self._trust.ttl_s
        known = CachedTokenInfo(found, min(until, found.expires_at), run)
        if counts:
            self._revoked.forget(digest)
            self._known.put(digest, known, until=min(until + self._trust.grace_s, found.expires_at))
        return known
