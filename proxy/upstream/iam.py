"""IAM (Keystone): what it says of a token, and a token of our own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

from proxy.core.messages import Fields, Request, Response
from proxy.core.tokens import TOKENS_PATH, Verdict, verdict
from proxy.errors import ProxyError, UpstreamUnreachableError
from proxy.telemetry import Telemetry
from proxy.upstream.base import Upstream

# What says that the token is not valid; anything else but a 200 says nothing of it.
_REFUSED: Final = frozenset({400, 401, 404})


@dataclass(frozen=True, slots=True)
class Issued:
    """A token of our own, and when it ends, epoch seconds."""

    token: str = field(repr=False)
    expires_at: float


class Iam:
    """Asks IAM by *upstream*, a client of its endpoint. Every call raises `ProxyError` where it gives no answer."""

    def __init__(self, upstream: Upstream, *, telemetry: Telemetry) -> None:
        self._upstream = upstream
        self._telemetry = telemetry

    async def verdict(self, token: str) -> Verdict | None:
        """Return what *token* stands for, None where it is not valid. A token may always validate itself."""
        fields = Fields([("X-Auth-Token", token), ("X-Subject-Token", token), ("Accept", "application/json")])
        answer = await self._answered(Request("GET", f"{TOKENS_PATH}?nocatalog=1", fields, request_id=""))
        if answer.status in _REFUSED:
            return None
        found = verdict(answer.body) if answer.status == 200 else None
        if found is None:
            raise UpstreamUnreachableError(f"IAM: no verdict, status {answer.status}")
        return found

    async def issued(self, order: bytes) -> Issued:
        """Return the token that *order* asks for."""
        fields = Fields([("Content-Type", "application/json"), ("Accept", "application/json")])
        request = Request("POST", f"{TOKENS_PATH}?nocatalog=1", fields, request_id="", body=_once(order))
        answer = await self._answered(request)
        token = answer.fields.get("x-subject-token")
        found = verdict(answer.body) if answer.status == 201 else None
        if found is None or not token:
            raise UpstreamUnreachableError(f"IAM: no token issued, status {answer.status}")
        return Issued(token, found.expires_at)

    async def _answered(self, request: Request) -> Response:
        """Return IAM's answer to *request*; it is a call like those to the image API, and counted with them."""
        started, status = monotonic(), "aborted"
        try:
            answer = await self._upstream.fetch(request)
            status = str(answer.status)
        except ProxyError as error:
            status = error.code
            raise
        finally:
            self._telemetry.called(purpose="iam", status=status, elapsed_s=monotonic() - started)
        return answer


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body
