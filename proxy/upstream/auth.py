"""Credentials of the proxy's own on everything that goes upstream: a signature, or a token that is renewed in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final, Protocol

from proxy.core.base import Exchange, Upstream
from proxy.core.messages import Request, Response
from proxy.core.signing import Signing
from proxy.errors import ProxyError
from proxy.upstream.identity import Identity
from proxy.upstream.keystone import Issued

# After a login that failed none is tried for so long, then for twice as long, up to the longest: IAM locks a user who
# fails five times in a row.
_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 300.0
_TRIED_S: Final = 60.0


class Credential(Protocol):
    """Who the proxy is to the upstream."""

    async def put(self, request: Request) -> Request:
        """Return *request* with the credential of whom it is for.

        Raises `IdentityChangedError` where the proxy is that one no more, `ProxyError` where there is none to be had.
        """
        ...

    def refused(self, request: Request) -> bool:
        """The upstream answered 401 to *request*; return whether another credential may fare better."""
        ...


class KeyCredential:
    """Signs with the key of who asks, by *of* (see `OwnIdentity.of`), and speaks for the project *project_id*.

    *clock* gives epoch seconds.
    """

    def __init__(
        self, of: Callable[[Request], Identity], *, host: str, project_id: str | None, clock: Callable[[], float]
    ) -> None:
        self._of = of
        self._host = host
        self._project = (("X-Project-Id", project_id),) if project_id else ()
        self._clock = clock

    async def put(self, request: Request) -> Request:
        """See `Credential.put`."""
        spoken = replace(request, fields=request.fields.plus(*self._project))
        return Signing(self._of(request).key, self._host).signed(spoken, now=self._clock())

    def refused(self, request: Request) -> bool:  # noqa: ARG002 - whatever it was
        """See `Credential.refused`: never, for five refused signatures lock a key."""
        return False


class TokenCredential:
    """A token that *issue* gives, renewed before it ends by one caller while the others wait.

    *of* says who asks (see `OwnIdentity.of`), *issue* is told whose token it is to be and which one the upstream
    refused, if that is why. When a key is replaced, the token of before counts no more.
    """

    def __init__(
        self,
        issue: Callable[[Identity, str | None], Awaitable[Issued]],
        *,
        of: Callable[[Request], Identity],
        clock: Callable[[], float],
    ) -> None:
        self._issue = issue
        self._of = of
        self._clock = clock
        self._turn = asyncio.Lock()
        self._issued: Issued | None = None
        self._whose: Identity | None = None
        self._refused: str | None = None
        self._pause_s = _PAUSE_S
        self._failed: tuple[float, ProxyError] | None = None  # until when not to try again, and why

    async def put(self, request: Request) -> Request:
        """See `Credential.put`."""
        return replace(request, fields=request.fields.plus(("X-Auth-Token", await self._token(request))))

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

    async def _token(self, request: Request) -> str:
        held = self._held(self._of(request))
        # Who comes while the next one is fetched goes on with the one that still holds.
        if held is None or (self._clock() >= held.renew_at and not self._turn.locked()):
            async with self._turn:
                identity = self._of(request)  # again: nobody logs in any more as who the proxy was before it waited
                held = self._held(identity)
                if held is None or self._clock() >= held.renew_at:
                    held = await self._renewed(identity, held)
        return held.token

    def _held(self, identity: Identity) -> Issued | None:
        """Return the token of *identity* that there is, if it still holds."""
        issued = self._issued if self._whose == identity else None
        return issued if issued is not None and self._clock() < issued.expires_at else None

    async def _renewed(self, identity: Identity, held: Issued | None) -> Issued:
        """Return a new token of *identity*, or *held* where there is none to be had."""
        now = self._clock()
        if self._failed is not None and self._whose == identity and 0 < self._failed[0] - now <= _LONGEST_PAUSE_S:
            if held is not None:
                return held
            raise self._failed[1]
        if self._whose != identity:
            # Before anything is awaited: who comes meanwhile would take it for the token of who the proxy is now.
            self._issued = self._refused = None
        self._whose = identity
        try:
            self._issued = await self._issue(identity, self._refused)
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
