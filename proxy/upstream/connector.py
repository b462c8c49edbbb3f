"""The connections to the upstream: on each come answers to what was asked, each to its end and no further.

Bytes that an upstream sends beyond the length that its answer states are nobody's (RFC 9112 §6.3). Two things go wrong
with them in aiohttp's client alone, and a third with a body whose chunks can't be divided:

- They arrive while nothing is asked on that connection, and read as an answer: whoever asks there next is given it.
- They arrive with the answer, and read as nothing: the answer is lost with them, or isn't, by how TCP divided them.
- Who reads the body is not told of the fault, and waits for an end that never comes, longer than for any next bytes.

Here they are dropped, the answer before them is whole, the fault ends the body, and the connection ends.

Interim answers on their way to the caller (RFC 9110 §15.2), which aiohttp's client takes in and tells nobody of.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from contextvars import ContextVar
from functools import partial
from typing import Any, Final

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import RawResponseMessage
from aiohttp.streams import StreamReader

from proxy.core.messages import Fields, OnInterim
from proxy.errors import UpstreamUnreachableError

_MAX_INTERIM: Final = 32  # of one answer; an upstream that sends more without an end would hold its caller for ever
_NOT_PASSED_ON: Final = frozenset({100, 101})  # a body was waited for, a switch of protocols was not asked for


class InterimResponses(AbstractContextManager[None]):
    """The context in which one final answer is awaited; *interim* is told of the interim ones that come before it.

    If too many come, waiting for the answer raises `UpstreamUnreachableError`.
    """

    def __init__(self, interim: OnInterim | None) -> None:
        self._interim = interim
        self._count = 0

    def __enter__(self) -> None:
        self._before = _CURRENT.set(self)

    def __exit__(self, *_: object) -> None:
        _CURRENT.reset(self._before)

    def receive(self, message: RawResponseMessage) -> None:
        if not 100 <= message.code < 200:
            return
        self._count += 1
        if self._count > _MAX_INTERIM:
            raise UpstreamUnreachableError(f"upstream: more than {_MAX_INTERIM} interim answers and no final one")
        if self._interim is not None and message.code not in _NOT_PASSED_ON:
            self._interim(message.code, received_fields(message.raw_headers).end_to_end())


def receive_interim(message: RawResponseMessage) -> None:
    """Note that *message* has arrived for what is awaited now."""
    if awaited := _CURRENT.get():
        awaited.receive(message)


_CURRENT: ContextVar[InterimResponses | None] = ContextVar("awaited", default=None)


def received_fields(lines: tuple[tuple[bytes, bytes], ...]) -> Fields:
    """Return the raw *lines* of a message as fields.

    aiohttp's parser reads `Transfer-Encoding : chunked` as what it is without the white space, which stays in the name
    all the same. It is for a proxy to take away (RFC 9112 §5.1): else nobody here would know that field as one that
    ends here, and who gets it might divide by it an answer that is framed anew.
    """
    return Fields(
        (name.rstrip(b" \t").decode("latin-1"), value.decode("utf-8", "surrogateescape")) for name, value in lines
    )


_HEAD_END: Final = b"\r\n\r\n"


class Connector(aiohttp.TCPConnector):
    """Makes connections on which interim answers are noticed, and of which nobody gets more than was asked for."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._factory = partial(_Connection, loop=self._loop)  # type: ignore[assignment]  # a partial is invariant


class _Connection(ResponseHandler):
    """A connection to the upstream. *awaits_head* says that what comes next is, or goes on with, a head."""

    awaits_head = False

    async def read(self) -> tuple[RawResponseMessage, StreamReader]:
        message, body = await super().read()
        receive_interim(message)
        return message, body

    def set_response_params(self, **settings: Any) -> None:
        """Begin to wait for an answer."""
        self.awaits_head = True
        super().set_response_params(**settings)

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        """Take a head that was parsed, if an answer is awaited: none comes behind the final one."""
        if not self.awaits_head:
            self._close()
            return
        self.awaits_head = 100 <= data[0].code < 200
        super().feed_data(data, size)

    def data_received(self, data: bytes) -> None:
        """Parse *data*, each head apart from what follows: with a fault the parser drops what stood before it."""
        while self.awaits_head and self._parser is not None and (end := data.find(_HEAD_END) + 4) > 3:
            super().data_received(data[:end])
            data = data[end:]
            if not data:
                return
        if data and self._is_answered:
            self._close()
        else:
            super().data_received(data)

    def set_exception(self, exc: BaseException, exc_cause: BaseException | None = None) -> None:
        """End with *exc*; where that is a fault in what was read, so does the body."""
        super().set_exception(exc, *((exc_cause,) if exc_cause is not None else ()))
        if isinstance(exc, HttpProcessingError) and self._payload is not None and not self._payload.is_eof():
            self._payload.set_exception(aiohttp.ClientPayloadError("body: chunks that can't be divided"), exc)

    @property
    def _is_answered(self) -> bool:
        """Whether the answer has come to its end, and nothing was asked since."""
        return self._parser is not None and not self.awaits_head and (self._payload is None or self._payload.is_eof())

    def _close(self) -> None:
        self.force_close()
        if self.transport is not None:
            self.transport.close()
