"""Interim answers on their way to the caller (RFC 9110 §15.2), which aiohttp's client takes in and tells nobody of."""

from __future__ import annotations

from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Final

from aiohttp.http_parser import RawResponseMessage

from proxy.core.messages import Fields, Interim
from proxy.errors import UpstreamUnreachableError

_MOST: Final = 32  # of one answer; an upstream that sends more without an end would hold its caller for ever
_ENDING_HERE: Final = frozenset({100, 101})  # a body was waited for, a switch of protocols was not asked for


class Awaiting(AbstractContextManager[None]):
    """The context in which one final answer is awaited; *interim* is told of the interim ones that come before it.

    If too many come, waiting for the answer raises `UpstreamUnreachableError`.
    """

    def __init__(self, interim: Interim | None) -> None:
        self._interim = interim
        self._count = 0

    def __enter__(self) -> None:
        self._before = _AWAITED.set(self)

    def __exit__(self, *_: object) -> None:
        _AWAITED.reset(self._before)

    def came(self, message: RawResponseMessage) -> None:
        if not 100 <= message.code < 200:
            return
        self._count += 1
        if self._count > _MOST:
            raise UpstreamUnreachableError(f"upstream: more than {_MOST} interim answers and no final one")
        if self._interim is not None and message.code not in _ENDING_HERE:
            self._interim(message.code, received_fields(message.raw_headers).end_to_end())


def came(message: RawResponseMessage) -> None:
    """Note that *message* has arrived for what is awaited now."""
    if awaited := _AWAITED.get():
        awaited.came(message)


_AWAITED: ContextVar[Awaiting | None] = ContextVar("awaited", default=None)


def received_fields(lines: tuple[tuple[bytes, bytes], ...]) -> Fields:
    """Return the raw *lines* of a message as fields.

    aiohttp's parser reads `Transfer-Encoding : chunked` as what it is without the white space, which stays in the name
    all the same. It is for a proxy to take away (RFC 9112 §5.1): else nobody here would know that field as one that
    ends here, and who gets it might divide by it an answer that is framed anew.
    """
    return Fields(
        (name.rstrip(b" \t").decode("latin-1"), value.decode("utf-8", "surrogateescape")) for name, value in lines
    )
