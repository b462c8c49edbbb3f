"""IAM (Keystone): what it says of a token, and a token of our own."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import field
from typing import Final

from proxy.core.base import Upstream
from proxy.core.messages import Fields, Request, Response
from proxy.core.values import immutable
from proxy.errors import UpstreamUnreachableError
from proxy.observability.logging import Telemetry
from proxy.upstream.tokens import TOKENS_PATH, Verdict, verdict

# What says that the token is not valid; anything else but a 200 says nothing of it.
_REFUSED: Final = frozenset({400, 401, 404})
# A token is renewed when so much of its life is left, or so many seconds if that is less.
_RENEWED_FRACTION: Final = 0.1
_RENEWED_S: Final = 600.0


@immutable
class Issued:
    """A token of our own, when it was issued and when it ends, epoch seconds."""

    token: str = field(repr=False)
    issued_at: float
    expires_at: float

    @property
    def renew_at(self) -> float:
        """When to fetch the next one: the same for all who have it, whenever they came by it."""
        return self.expires_at - min(_RENEWED_S, _RENEWED_FRACTION * (self.expires_at - self.issued_at))


class Iam:
    """Asks IAM by *upstream*, a client of its endpoint; *clock* gives epoch seconds.

    Every call raises `ProxyError` where it gives no answer.
    """

    def __init__(self, upstream: Upstream, *, telemetry: Telemetry, clock: Callable[[], float] = time.time) -> None:
        self._upstream = upstream
        self._telemetry = telemetry
        self._clock = clock

    async def verdict(self, token: str) -> Verdict | None:
        """Return what *token* stands for, None where it is not valid. A token may always validate itself."""
        fields = Fields([("X-Auth-Token", token), ("X-Subject-Token", token), ("Accept", "application/json")])
        answer = await self._answered(Request("GET", f"{TOKENS_PATH}?nocatalog=1", fields, request_id=""))
        if answer.status in _REFUSED:
            return None
        found = verdict(answer.body) if answer.status == 200 else None
        if found is None:
            raise UpstreamUnreachableError(f"IAM: no verdict, status {answer.status}")
        if answer.fields.get("x-subject-token") not in (None, token):  # it repeats what it was asked about
            raise UpstreamUnreachableError("IAM: a verdict of another token than was asked about")
        return found

    async def issued(self, order: bytes) -> Issued:
        """Return the token that *order* asks for."""
        fields = Fields([("Content-Type", "application/json"), ("Accept", "application/json")])
        request = Request("POST", f"{TOKENS_PATH}?nocatalog=1", fields, request_id="", body=_once(order))
        asked_at = self._clock()
        answer = await self._answered(request)
        token = answer.fields.get("x-subject-token")
        found = verdict(answer.body) if answer.status == 201 else None
        if found is None or not token:
            raise UpstreamUnreachableError(f"IAM: no token issued, status {answer.status}")
        return Issued(token, asked_at, found.expires_at)

    async def _answered(self, request: Request) -> Response:
        """Return IAM's answer to *request*; it is a call like those to the image API, and counted with them."""
        with self._telemetry.calling("iam", clock=time.monotonic) as call:
            answer = await self._upstream.fetch(request)
            call.status = str(answer.status)
        return answer


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body
