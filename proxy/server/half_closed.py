"""Callers that end their own side of a connection behind the last request, and wait for what they asked for."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler

ENDED_S: Final = 2.0  # how long an answer that has not begun may take once its caller has ended its side


class HalfClosing(RequestHandler):
    """A connection that answers what was asked before its caller ended its own side of it.

    From here that looks like a caller that has hung up. So the answer has to begin soon, or there is none, and whoever
    waits upstream is called off; one that had begun by then ends at once, and so does a request that is not whole.
    *answered* is how many requests have got their answers to the last byte, each with leave to send another.
    """

    def __init__(self, manager: Any, **settings: Any) -> None:
        super().__init__(manager, **settings)
        self.answered = 0
        self._ended: asyncio.TimerHandle | None = None
        self._body: StreamReader = EMPTY_PAYLOAD  # of the latest request

    def data_received(self, data: bytes) -> None:
        """Keep in mind the last body that begins in *data*."""
        super().data_received(data)
        if self._messages:
            self._body = self._messages[-1][1]

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio asks for it, aiohttp always says None
        """Return whether the connection stays open: while it owes an answer to a whole request.

        TLS has no half of a connection that could stay.
        """
        if self._over_tls or self.answered == self._request_count or self._begun or not self._body.is_eof():
            return False
        self._ended = self._loop.call_later(ENDED_S, self._give_up)
        if not self._messages:
            self.close()  # behind the answer that is under way
        return True

    def was_answered(self) -> None:
        """Count one answer. Where nothing more can come, it was the last."""
        self.answered += 1
        if self._ended is not None and not self._messages:
            self.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Wait for nothing more."""
        super().connection_lost(exc)
        if self._ended is not None:
            self._ended.cancel()

    @property
    def _over_tls(self) -> bool:
        return self.transport is not None and self.transport.get_extra_info("sslcontext") is not None

    @property
    def _begun(self) -> bool:
        return self._current_request is not None and self._current_request.writer.output_size > 0

    def _give_up(self) -> None:
        if self.transport is not None and not self.transport.is_closing() and not self._begun:
            self.transport.abort()
