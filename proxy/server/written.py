"""Finished answers as the bytes that go to the caller: head and body in one, without aiohttp's own response."""

from __future__ import annotations

from collections.abc import Iterable
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Final

from aiohttp import HttpVersion, HttpVersion11, web

from proxy.core.messages import Response
from proxy.http.validation import written

BODILESS: Final = frozenset({204, 304})
_OURS: Final = frozenset({"cache-status", "x-request-id", "content-length", "connection"})


class Written(web.StreamResponse):
    """An answer that has been written: its *head*, as far as the request id, and its *body*."""

    def __init__(self, status: int, keep_alive: bool, head: bytes, body: bytes) -> None:
        super().__init__(status=status)
        self._keep_alive = keep_alive
        self.head = head
        self.body = body

    async def prepare(self, request: web.BaseRequest) -> None:
        """Do nothing: it is done."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: it is done."""


def finished_head(answer: Response, *, version: HttpVersion, keep_alive: bool, cache_status: str, now: float) -> bytes:
    """Return the head of *answer*, given at *now*, as far as the value of `X-Request-Id`, which stands last.

    Raises `ValueError` as `written` does.
    """
    lines = [f"HTTP/{version.major}.{version.minor} {answer.status} {answer.reason or phrase(answer.status)}"]
    dated = False
    for name, value in answer.fields:
        folded = name.lower()
        if folded not in _OURS:
            dated = dated or folded == "date"
            lines.append(f"{name}: {value}")
    if not dated:
        lines.append(f"Date: {http_date(int(now))}")
    if answer.status not in BODILESS:
        lines.append(f"Content-Length: {len(answer.body)}")
    if not keep_alive:
        lines.append("Connection: close")
    elif version < HttpVersion11:
        lines.append("Connection: keep-alive")
    lines.append(f"Cache-Status: {cache_status}")
    lines.append("X-Request-Id: ")
    return written(lines)


def whole_head(first: str, lines: Iterable[tuple[str, str]]) -> bytes:
    """Return a head as it is sent, from its *first* line to the empty one.

    Raises `ValueError` as `written` does.
    """
    return written([first, *(f"{name}: {value}" for name, value in lines), "", ""])


@lru_cache(maxsize=64)
def phrase(status: int) -> str:
    """Return the reason phrase of *status*, "" for one that has none."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


@lru_cache(maxsize=4)
def http_date(second: int) -> str:
    """Return *second* of the epoch as `Date` has it (RFC 9110 §5.6.7)."""
    return formatdate(second, usegmt=True)
