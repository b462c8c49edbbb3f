"""Requests, responses and their fields, independent of any HTTP library, and the interface of the upstream."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import field
from typing import Final, Protocol

from multidict import CIMultiDict

from proxy.core.call_context import DEFAULT_CONTEXT, CallContext
from proxy.core.values import immutable

# RFC 9110 §7.6.1, and two more that old agents still send.
HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


class Fields:
    """An ordered, immutable multi-map of field lines; names compare without case (RFC 9110 §5.1)."""

    __slots__ = ("_index", "lines")

    def __init__(self, lines: Iterable[tuple[str, str]] = ()) -> None:
        self.lines: tuple[tuple[str, str], ...] = tuple(lines)
        self._index: CIMultiDict[str] | None = None  # made when first needed

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self.lines)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fields) and self.lines == other.lines

    def __hash__(self) -> int:
        return hash(self.lines)

    def __repr__(self) -> str:
        """Name the fields but never their values: representations end up in logs."""
        return f"Fields({', '.join(name for name, _ in self.lines)})"

    def get_all(self, name: str) -> list[str]:
        """Return every value of *name*, in order."""
        return self._by_name.getall(name, [])

    def get(self, name: str) -> str | None:
        """Return the first value of *name*."""
        return self._by_name.get(name)

    def contains_any(self, names: frozenset[str]) -> bool:
        """Return whether there is a field with one of *names*."""
        return any(map(self._by_name.__contains__, names))

    def select(self, names: Iterable[str]) -> Fields:
        """Return the lines whose name is one of *names*."""
        selected = {name.lower() for name in names}
        return Fields(line for line in self.lines if line[0].lower() in selected)

    def without(self, names: Iterable[str]) -> Fields:
        """Return the lines whose name is none of *names*."""
        unwanted = {name.lower() for name in names}
        return Fields(line for line in self.lines if line[0].lower() not in unwanted)

    def plus(self, *lines: tuple[str, str]) -> Fields:
        """Return these lines with *lines* after them."""
        return Fields((*self.lines, *lines))

    @property
    def _by_name(self) -> CIMultiDict[str]:
        if self._index is None:
            self._index = CIMultiDict(self.lines)
        return self._index

    def end_to_end(self) -> Fields:
        """Return the fields that may cross a proxy: neither hop-by-hop nor named by `Connection` (RFC 9110 §7.6.1)."""
        named = {option.strip() for value in self.get_all("connection") for option in value.split(",")}
        return self.without(HOP_BY_HOP | named)


# Called with the status and fields of an interim response (1xx).
OnInterim = Callable[[int, Fields], None]


class HasTarget:
    """Splits a raw *target* in origin-form (RFC 9112 §3.2.1) into path and query."""

    __slots__ = ()

    target: str

    @property
    def path(self) -> str:
        """The raw path."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """The raw query, empty if there is none."""
        return self.target.partition("?")[2]


@immutable
class Request(HasTarget):
    """One request as its caller sent it; *target* is the raw origin-form, never decoded.

    On the way upstream, *context* says for whom the call is and how urgent; *on_interim* is called with interim
    responses. *before_send* is called when the request has waited and is about to be sent; it raises `ProxyError` if it
    must no longer be sent.
    """

    method: str
    target: str
    fields: Fields
    request_id: str
    body: AsyncIterable[bytes] | None = None
    context: CallContext = DEFAULT_CONTEXT
    on_interim: OnInterim | None = field(default=None, compare=False)
    before_send: Callable[[], None] | None = field(default=None, compare=False, repr=False)


@immutable
class Response:
    """A complete response."""

    status: int
    fields: Fields = field(default_factory=Fields)
    body: bytes = b""
    reason: str | None = None


USER_AGENT: Final = "ims-cache-proxy"  # of calls the proxy makes itself


@immutable
class StreamedResponse:
    """A response whose body still arrives, in *chunks*."""

    status: int
    reason: str | None
    fields: Fields
    chunks: AsyncIterator[bytes]


class Upstream(Protocol):
    """One origin. Both methods raise `UpstreamUnreachableError` or `UpstreamTimeoutError` if no answer came."""

    async def fetch(self, request: Request) -> Response:
        """Return the complete response, its content coding undone."""
        ...

    def stream(self, request: Request) -> AbstractAsyncContextManager[StreamedResponse]:
        """Send *request* with its body and yield the response as it arrives, unaltered."""
        ...
