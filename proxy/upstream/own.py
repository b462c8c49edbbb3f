"""Credentials of the proxy's own on everything that goes upstream: a signature, or a token that is renewed in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final, Protocol

from proxy.core.messages import Request, Response
from proxy.core.signing import Signing, SigningKey
from proxy.errors import ProxyError
from proxy.upstream.base import Exchange, Upstream
from proxy.upstream.iam import Issued

# After a login that failed none is tried for so long, then for twice as long, up to the longest: IAM locks a user who
# fails five times in a row.
_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 300.0
_TRIED_S: Final = 60.0


class Credential(Protocol):
    """Who the proxy is to the upstream."""

    async def put(self, request: Request) -> Request:
        """Return *request* with the credential; raises `ProxyError` where there is none to be had."""
        ...

    def refused(self, request: Request) -> bool:
        """The upstream answered 401 to *request*; return whether another credential may fare better."""
        ...


class KeyCredential:
    """Signs with whatever *key* gives, speaking for the project *project_id*; *clock* gives epoch seconds."""

    def __init__(
        self, key: Callable[[], SigningKey], *, host: str, project_id: str | None, clock: Callable[[], float]
    ) -> None:
        self._key = key
        self._host = host
        self._project = (("X-Project-Id", project_id),) if project_id else ()
        self._clock = clock

    async def put(self, request: Request) -> Request:
        """See `Credential.put`."""
        spoken = replace(request, fields=request.fields.plus(*self._project))
        return Signing(self._key(), self._host).signed(spoken, now=self._clock())

    def refused(self, request: Request) -> bool:  # noqa: ARG002 - whatever it was
        """See `Credential.refused`: never, for five refused signatures lock a key."""
        return False


class TokenCredential:
    """A token that *issue* gives, renewed before it ends by one caller while the others wait.

    *issue* is told the token that the upstream refused, if that is why. *whose* says whose token it is: when that
    changes, because a key was replaced, the token of before counts no more.
    """

    def __init__(
        self,
        issue: Callable[[str | None], Awaitable[Issued]],
        *,
        whose: Callable[[], object],
        clock: Callable[[], float],
    ) -> None:
        self._issue = issue
        self._whose = whose
        self._clock = clock
        self._turn = asyncio.Lock()
        self._issued: Issued | None = None
        self._of: object = None
        self._refused: str | None = None
        self._pause_s = _PAUSE_S
        self._failed: tuple[float, ProxyError] | None = None  # until when not to try again, and why

    async def put(self, request: Request) -> Request:
        """See `Credential.put`."""
        return replace(request, fields=request.fields.plus(("X-Auth-Token", await self._token())))

    def refused(self, request: Request) -> bool:
        """See `Credential.refused`: the token may have been revoked; another that was fetched meanwhile stays.

        One that was fetched in the place of a refused one a moment ago is not given up: a third would fare no better.
        """
        sent, issued = request.fields.get("x-auth-token"), self._issued
        if issued is not None and sent == issued.token:
            if self._refused is not None and self._clock() < issued.issued_at + _TRIED_S:
                return False
            self._refused, self._issued = sent, None
        return True

    async def _token(self) -> str:
        held = self._held()
        # Who comes while the next one is fetched goes on with the one that still holds.
        if held is None or (self._clock() >= held.renew_at and not self._turn.locked()):
            async with self._turn:
                held = self._held()
                if held is None or self._clock() >= held.renew_at:
                    held = await self._renewed(held)
        return held.token

    def _held(self) -> Issued | None:
        """Return the token that there is, if it still holds."""
        issued = self._issued if self._of == self._whose() else None
        return issued if issued is not None and self._clock() < issued.expires_at else None

    async def _renewed(self, held: Issued | None) -> Issued:
        """Return a new token, or *held* where there is none to be had."""
        whose, now = self._whose(), self._clock()
        if self._failed is not None and self._of == whose and 0 < self._failed[0] - now <= _LONGEST_PAUSE_S:
            if held is not None:
                return held
            raise self._failed[1]
        if self._of != whose:
            # Before anything is awaited: who comes meanwhile would take it for the token of who the proxy is now.
            self._issued = self._refused = None
        self._of = whose
        try:
            self._issued = await self._issue(self._refused)
        except ProxyError as error:
            self._failed = (self._clock() + self._pause_s, error)
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
            if held is not None:
                return held  # it still holds; a later request tries again
            raise
        self._failed, self._pause_s = None, _PAUSE_S
        return self._issued


class OwnUpstream:
    """An `Upstream` that is asked with *credential*; what is fetched is asked for once more where that may help."""

    def __init__(self, upstream: Upstream, credential: Credential) -> None:
        self._upstream = upstream
        self._credential = credential

    async def fetch(self, request: Request) -> Response:
        """See `Upstream.fetch`."""
        sent = await self._credential.put(request)
        answer = await self._upstream.fetch(sent)
        if answer.status == 401 and self._credential.refused(sent) and request.body is None:
            answer = await self._upstream.fetch(await self._credential.put(request))
        return answer

    @asynccontextmanager
    async def exchange(self, request: Request) -> AsyncIterator[Exchange]:
        """See `Upstream.exchange`; a body can't be sent twice, so nothing is repeated."""
        sent = await self._credential.put(request)
        async with self._upstream.exchange(sent) as exchange:
            if exchange.status == 401:
                self._credential.refused(sent)
            yield exchange
