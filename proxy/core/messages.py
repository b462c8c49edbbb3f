"""Requests, responses and their fields, free of any HTTP library.

What the gateway knows of the upstream.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import field
from typing import Final, Protocol

from proxy.core.call_context import DEFAULT_CONTEXT, CallContext
from proxy.core.values import immutable

# RFC 9110 §7.6.1, and the two that old agents still send.
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

    __slots__ = ("_values", "lines")

    def __init__(self, lines: Iterable[tuple[str, str]] = ()) -> None:
        self.lines: tuple[tuple[str, str], ...] = tuple(lines)
        self._values: dict[str, list[str]] | None = None  # by lower-case name, made when first asked for

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self.lines)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fields) and self.lines == other.lines

    def __hash__(self) -> int:
        return hash(self.lines)

    def __repr__(self) -> str:
        """Name the fields, never their values: a representation ends up in logs."""
        return f"Fields({', '.join(name for name, _ in self.lines)})"

    def get_all(self, name: str) -> list[str]:
        """Return every value of *name*, in order."""
        return list((self._values or self._index_by_name()).get(name.lower(), ()))

    def get(self, name: str) -> str | None:
        """Return the first value of *name*."""
        values = (self._values or self._index_by_name()).get(name.lower())
        return values[0] if values else None

    def contains_any(self, names: frozenset[str]) -> bool:
        """Return whether there is a line with one of *names*, which are in lower case."""
        return not names.isdisjoint(self._values or self._index_by_name())

    def select(self, names: Iterable[str]) -> Fields:
        """Return the lines whose name is one of *names*."""
        span_request = {name.lower() for name in names}
        return Fields(line for line in self.lines if line[0].lower() in span_request)

    def without(self, names: Iterable[str]) -> Fields:
        """Return the lines whose name is none of *names*."""
        unwanted = {name.lower() for name in names}
        return Fields(line for line in self.lines if line[0].lower() not in unwanted)

    def plus(self, *lines: tuple[str, str]) -> Fields:
        """Return these lines with *lines* after them."""
        return Fields((*self.lines, *lines))

    def _index_by_name(self) -> dict[str, list[str]]:
        values: dict[str, list[str]] = {}
        for name, value in self.lines:
            values.setdefault(name.lower(), []).append(value)
        self._values = values
        return values

    def end_to_end(self) -> Fields:
        """Return the fields that may cross a proxy: neither hop-by-hop nor named by `Connection` (RFC 9110 §7.6.1)."""
        named = {option.strip() for value in self.get_all("connection") for option in value.split(",")}
        return self.without(HOP_BY_HOP | named)


# Takes the status and the fields of an answer that is not the final one.
OnInterim = Callable[[int, Fields], None]


class HasTarget:
    """What has a *target*: the raw origin-form, a path and, behind a question mark, a query (RFC 9112 §3.2.1)."""

    __slots__ = ()

    target: str

    @property
    def path(self) -> str:
        """The raw path of the target."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """The raw query of the target, empty where there is none."""
        return self.target.partition("?")[2]


@immutable
class Request(HasTarget):
    """One request as its caller sent it; *target* is the raw origin-form, never decoded.

    On its way upstream *context* says for whom, and how urgently; *on_interim* is told what comes before the answer.
    *before_send* is called when it has waited and is about to be sent: it raises `ProxyError` where that may not be any
    more.
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
    """One finished response: all its bytes are here."""

    status: int
    fields: Fields = field(default_factory=Fields)
    body: bytes = b""
    reason: str | None = None


USER_AGENT: Final = "ims-cache-proxy"  # of the calls that are the proxy's own, and not a caller's passed on


@immutable
class StreamedResponse:
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

    def stream(self, request: Request) -> AbstractAsyncContextManager[StreamedResponse]:
        """Send *request*, body and all, and give the answer as it arrives, unaltered."""
        ...
