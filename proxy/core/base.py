"""What the gateway knows of the upstream."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

from proxy.core.messages import Fields, Request, Response
from proxy.core.values import immutable

USER_AGENT: Final = "ims-cache-proxy"  # of the calls that are the proxy's own, and not a caller's passed on


@immutable
class Exchange:
    """An answer whose body still comes: *chunks* are its bytes as they arrive."""

    status: int
    reason: str | None
    fields: Fields
    chunks: AsyncIterator[bytes]


class Upstream(Protocol):
    """One origin. Both calls raise `UpstreamUnreachableError` or `UpstreamTimeoutError` where no answer came."""

    async def fetch(self, request: Request) -> Response:
        """Return the whole answer, its content coding undone."""
        ...

    def exchange(self, request: Request) -> AbstractAsyncContextManager[Exchange]:
        """Send *request*, body and all, and give the answer as it arrives, unaltered."""
        ...
