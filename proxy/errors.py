"""The errors that the proxy itself answers with. One root; each carries its status and a stable code."""

from __future__ import annotations


class ProxyError(Exception):
    """An answer that the proxy makes itself; the message is subject, fact, value, and holds nothing of the request."""

    status = 500
    code = "PROXY.0500"
    may_have_arrived = False  # whether the request may have reached the upstream
    closes_connection = (
        False  # whether the caller's connection ends with it: what follows can't be told from it for sure
    )

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s


class BadRequestError(ProxyError):
    """The request can't be understood as HTTP, or not safely."""

    status = 400
    code = "PROXY.0400"
    closes_connection = True


class UnauthorizedError(ProxyError):
    """The caller has none of the keys that this proxy asks for."""

    status = 401
    code = "PROXY.0401"


class ForbiddenError(ProxyError):
    """The caller may not do this through this proxy."""

    status = 403
    code = "PROXY.0403"


class BrokenBodyError(BadRequestError):
    """The caller's body ends before its end, or can't be divided any further; part of it may have gone up."""

    may_have_arrived = True


class TargetTooLongError(BadRequestError):
    """The request target is longer than is read."""

    status = 414
    code = "PROXY.0414"


class FieldsTooLargeError(BadRequestError):
    """A field is longer, or there are more of them, than is read (RFC 6585 §5)."""

    status = 431
    code = "PROXY.0431"


class NotImplementedByProxyError(BadRequestError):
    """A method that a gateway must not carry on, or a transfer coding that it does not know."""

    status = 501
    code = "PROXY.0501"


class RateLimitedError(ProxyError):
    """The upstream's budget has no call left that could be made in time."""

    status = 429
    code = "PROXY.0429"


class UpstreamQueueFullError(RateLimitedError):
    """As many calls are under way as there may be, and more wait than can be made in time."""

    status = 503
    code = "PROXY.0503"


class ClientLimitError(ProxyError):
    """The caller asked for more than one caller may."""

    status = 429
    code = "PROXY.0429"


class OverloadedError(ProxyError):
    """The proxy has as many requests under way as it may have."""

    status = 503
    code = "PROXY.0503"


class CircuitOpenError(ProxyError):
    """The upstream failed so often that it is left alone for a while."""

    status = 503
    code = "PROXY.0503"


class IdentityChangedError(ProxyError):
    """The proxy is another to the upstream than when the request came, so nothing is sent or given for who it was.

    A caller is told so only where it happens twice to one request; else that is worked out anew.
    """

    status = 503
    code = "PROXY.0503"

    def __init__(self) -> None:
        super().__init__("proxy: its own identity was replaced while the request waited", retry_after_s=1.0)


class UpstreamUnreachableError(ProxyError):
    """No connection to the upstream, or it broke off before it had answered."""

    status = 502
    code = "PROXY.0502"
    may_have_arrived = True


class UpstreamTimeoutError(ProxyError):
    """The upstream did not answer in time."""

    status = 504
    code = "PROXY.0504"
    may_have_arrived = True


class NoConnectionError(UpstreamUnreachableError):
    """No connection to the upstream: it has seen nothing of the request."""

    may_have_arrived = False


class ConnectTimeoutError(UpstreamTimeoutError):
    """No connection to the upstream in time: it has seen nothing of the request."""

    may_have_arrived = False


class NotCachedError(ProxyError):
    """The caller wants a stored answer or none (RFC 9111 §5.2.1.7), and there is none."""

    status = 504
    code = "PROXY.0504"


class StoreUnavailableError(Exception):
    """The store could not be asked. The caller of the proxy never sees it: the store is then taken for empty."""


class StoreTimeoutError(StoreUnavailableError):
    """The store has not answered in time. That alone does not say that it is away."""


class StoreRefusedError(StoreUnavailableError):
    """The store answered, and refused: it is full, say, or a key holds something foreign. Other calls may succeed."""
