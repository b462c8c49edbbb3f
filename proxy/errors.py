"""The errors that the proxy itself answers with. One root; each carries its status and a stable code."""

from __future__ import annotations


class ProxyError(Exception):
    """An answer that the proxy makes itself; the message is subject, fact, value, and holds nothing of the request."""

    status = 500
    code = "PROXY.0500"

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s


class BadRequestError(ProxyError):
    """The request can't be understood as HTTP, or not safely."""

    status = 400
    code = "PROXY.0400"


class NotImplementedMethodError(ProxyError):
    """A method that a gateway must not carry on."""

    status = 501
    code = "PROXY.0501"


class UpstreamUnreachableError(ProxyError):
    """No connection to the upstream, or it broke off before it had answered."""

    status = 502
    code = "PROXY.0502"


class UpstreamTimeoutError(ProxyError):
    """The upstream did not answer in time."""

    status = 504
    code = "PROXY.0504"


class NotInStoreError(ProxyError):
    """The caller wants a stored answer or none (RFC 9111 §5.2.1.7), and there is none."""

    status = 504
    code = "PROXY.0504"


class StoreUnavailableError(Exception):
    """The store could not be asked. The caller of the proxy never sees it: the store is then taken for empty."""


class StoreRefusedError(StoreUnavailableError):
    """The store answered, and refused: it is full, say, or a key holds something foreign. Other calls may succeed."""
