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

# A token is renewed when so much of its life is left, or so many seconds if that is less.
_RENEWED_FRACTION: Final = 0.1
_RENEWED_S: Final = 600.0


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
    """A token that *issue* gives, renewed before it ends by one caller while the others wait."""

    def __init__(self, issue: Callable[[], Awaitable[Issued]], *, clock: Callable[[], float]) -> None:
        self._issue = issue
        self._clock = clock
        self._turn = asyncio.Lock()
        self._issued: Issued | None = None
        self._renew_at = 0.0

    async def put(self, request: Request) -> Request:
        """See `Credential.put`."""
        return replace(request, fields=request.fields.plus(("X-Auth-Token", await self._token())))

    def refused(self, request: Request) -> bool:
        """See `Credential.refused`: the token may have been revoked; another that was fetched meanwhile stays."""
        if self._issued is not None and request.fields.get("x-auth-token") == self._issued.token:
            self._issued = None
        return True

    async def _token(self) -> str:
        if self._issued is None or self._clock() >= self._renew_at:
            async with self._turn:
                if self._issued is None or self._clock() >= self._renew_at:
                    await self._renew()
        assert self._issued is not None
        return self._issued.token

    async def _renew(self) -> None:
        try:
            issued = await self._issue()
        except ProxyError:
            if self._issued is not None and self._clock() < self._issued.expires_at:
                return  # it still holds; the next request tries again
            raise
        now = self._clock()
        left_s = issued.expires_at - now
        self._renew_at = issued.expires_at - min(_RENEWED_S, _RENEWED_FRACTION * left_s)
        self._issued = issued


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
