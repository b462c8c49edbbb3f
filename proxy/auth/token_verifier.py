"""What IAM says of tokens, remembered for a while: one flight for a token, and never past its end.

A token is known by its digest; the token itself is kept nowhere.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Protocol

from proxy.caching.bounded import Memo
from proxy.caching.collapsing import Coalescer
from proxy.core.freshness import Verdicts
from proxy.core.values import immutable
from proxy.errors import ProxyError, StoreUnavailableError
from proxy.upstream.keystone import Verdict

_REMEMBERED: Final = 10_000
# How long a token that IAM refused is refused unasked, seconds, so that a flood of bad tokens is none on IAM.
REFUSED_S: Final = 10.0
_DROPPED_S: Final = 600.0  # longer than anyone waits for another's fetch
_SCOPE: Final = "token:"


class Judge(Protocol):
    """Who says what tokens stand for."""

    async def verdict(self, token: str) -> Verdict | None:
        """Return what *token* stands for, None where it is not valid; raises `ProxyError` where that can't be said."""
        ...


@immutable
class Known:
    """A verdict, believed *until* then without asking anew, epoch seconds; *run* is when it was asked for.

    After messages of other replicas may have been missed, another run begins.
    """

    verdict: Verdict
    until: float
    run: int


class TokenVerifier:
    """Believes IAM's verdicts as *verdicts* says. *tell* is given the scopes that every replica has to hear of."""

    def __init__(
        self,
        judge: Judge,
        *,
        verdicts: Verdicts,
        tell: Callable[[list[str]], Awaitable[None]],
        clock: Callable[[], float],
    ) -> None:
        self._judge = judge
        self._verdicts = verdicts
        self._tell = tell
        self._clock = clock
        self._known: Memo[Known] = Memo(_REMEMBERED)
        self._refused: Memo[bool] = Memo(_REMEMBERED)
        self._dropped: Memo[bool] = Memo(_REMEMBERED)
        self._flights: Coalescer[Known | None] = Coalescer()
        self._run = 0
        self._questions: dict[str, object] = {}  # by digest, those under way that nothing was dropped since

    async def close(self) -> None:
        """End the questions that are under way."""
        await self._flights.close()

    async def known(self, token: str, digest: str) -> Known | None:
        """Return what *token*, which has that *digest*, stands for; None where IAM refuses it.

        Raises `ProxyError` where IAM can't say it, and has not lately enough.
        """
        now = self._clock()
        if self._refused.get(digest, now=now):
            return None
        known = self._known.get(digest, now=now)
        # Left of it may be more than it had where the clock was set back: then nobody knows how old it is.
        if known and known.run == self._run and 0 < known.until - now <= self._verdicts.ttl_s + 1:
            return known
        question = self._questions.setdefault(digest, object())
        try:
            return await self._flights.join((digest, question), lambda: self._asked(token, digest, question))
        except ProxyError:
            # Looked up again: it may have been dropped while IAM was asked.
            if known and self._known.get(digest, now=self._clock()):
                return known
            raise

    async def drop(self, digest: str, *, surely: bool = False) -> None:
        """Forget the verdict of a token, in every replica; unless *surely*, only where one is known here.

        Who sends made-up tokens must not make replicas talk.
        """
        known = self._known.get(digest, now=self._clock()) is not None
        self._forget(digest)
        if known or surely:
            try:
                await self._tell([_SCOPE + digest])
            except StoreUnavailableError:
                return

    def dropped(self, digest: str) -> bool:
        """Whether what was known of a token was dropped lately, and IAM has not vouched for it since."""
        return self._dropped.get(digest, now=self._clock()) is not None

    def heard(self, scopes: Iterable[str] | None) -> None:
        """Other replicas invalidated *scopes*; None says that messages may have been missed.

        Then every verdict is asked for anew, and believed only while IAM is away.
        """
        if scopes is None:
            self._run += 1
            return
        for scope in scopes:
            if scope.startswith(_SCOPE):
                self._forget(scope.removeprefix(_SCOPE))

    def _forget(self, digest: str) -> None:
        # A question that is under way was asked before this, so nobody else joins it.
        under_way = self._questions.pop(digest, None) is not None
        now = self._clock()
        if under_way or self._known.get(digest, now=now):
            self._dropped.put(digest, True, until=now + _DROPPED_S)
        self._known.forget(digest)

    async def _asked(self, token: str, digest: str, question: object) -> Known | None:
        now, run = self._clock(), self._run
        try:
            found = await self._judge.verdict(token)
        finally:
            counts = self._questions.get(digest) is question
            if counts:
                del self._questions[digest]
        if found is None or found.expires_at <= self._clock():
            self._known.forget(digest)
            self._refused.put(digest, True, until=self._clock() + REFUSED_S)
            return None
        until = now + self._verdicts.ttl_s
        known = Known(found, min(until, found.expires_at), run)
        if counts:
            self._dropped.forget(digest)
            self._known.put(digest, known, until=min(until + self._verdicts.grace_s, found.expires_at))
        return known
