"""Connections on which requests like those that were answered before need not be parsed."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Any, NamedTuple

from aiohttp.streams import EMPTY_PAYLOAD

from proxy.server.fast_path import HeadMemo, Known, Peer, Repeat
from proxy.server.heads import METHODS, alone
from proxy.server.holding import Holding


class Asked(NamedTuple):
    """A head that is *known* to the memory, and the *epoch* before anything was looked up for it."""

    known: Known
    epoch: int | None


class Repeating(Holding):
    """One caller's connection; it answers from *memo* what need not be parsed.

    That takes a head that is alone: nothing before it is unfinished, no answer is under way, nothing follows it.
    *asked* is such a head that is on its whole way through now.

    For a body that has to be made anew the connection is held, until it is given or its request goes the whole way.
    """

    def __init__(self, manager: Any, memo: HeadMemo | None, **settings: Any) -> None:
        super().__init__(manager, **settings)
        self.asked: Asked | None = None
        self._memo = memo
        self._peer: Peer | None = None
        self._at_start = True  # what comes next is the beginning of a message

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note where the connection comes from."""
        super().connection_made(transport)
        if self._memo is not None:
            peer = transport.get_extra_info("peername")
            address = str(peer[0]) if isinstance(peer, tuple) else ""
            self._peer = self._memo.peer(address, tls=transport.get_extra_info("sslcontext") is not None)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Keep nothing of what was sent."""
        super().connection_lost(exc)
        if self._peer is not None:
            self._peer.forget()

    def data_received(self, data: bytes) -> None:
        """Answer *data* if it is a request that was answered lately, else let it be parsed."""
        if self.holds(data):
            return
        known = self._known(data)
        if known is None or not self._repeated(known, data):
            self._parse(data, known)

    def _known(self, data: bytes) -> Known | None:
        """Return *data* as the memory knows it, None where it is not a head that an answer may be given to at once."""
        if not self._at_start or self._request_count != self.answered or self._paused:
            return None  # an answer is under way, or still on its way to a slow reader
        if self._peer is None or self._force_close or self._close or not data.startswith(METHODS):
            return None
        return self._peer.known(data)

    def _repeated(self, known: Known, data: bytes) -> bool:
        """Give, or begin to seek, the answer that the memory has to *data*, and return whether it has one."""
        started = time.perf_counter()
        repeat = self._memo.find(known) if self._memo is not None else None
        if repeat is None or self.transport is None:
            return False
        if repeat.body is not None:
            self._give(repeat, repeat.body, known, started)
        else:
            self.hold_for(repeat.made_anew, partial(self._sought, repeat, known, data, started))
        return True

    def _sought(self, repeat: Repeat, known: Known, data: bytes, started: float, body: bytes | None) -> None:
        """Give *body*, if what was true when it was sought has not ended since; else send *data* on its whole way."""
        assert self._memo is not None
        if self.gone:
            repeat.gone().served(time.perf_counter() - started, known.request_id or self._memo.new_id())
        elif body is not None and self._memo.find(known) is repeat:
            self._give(repeat, body, known, started)
        else:
            self._parse(data, known)

    def _give(self, repeat: Repeat, body: bytes, known: Known, started: float) -> None:
        assert self._memo is not None
        assert self.transport is not None
        request_id = known.request_id or self._memo.new_id()
        self.transport.write(b"%b%b\r\n\r\n%b" % (repeat.head, request_id, body))
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        repeat.seen.served(time.perf_counter() - started, request_id)

    def _parse(self, data: bytes, known: Known | None) -> None:
        """Let *data* go its whole way; an answer to what is *known* may be remembered if it came alone."""
        memo, single = self._memo, alone(data)
        self.asked = Asked(known, memo.epoch()) if memo is not None and known is not None and single else None
        count = self._request_count
        super().data_received(data)
        # A head that was alone in `data` and made one message without a body ends where `data` does.
        self._at_start = single and self._request_count == count + 1 and self._bodiless
        if not self._at_start:
            self.asked = None

    @property
    def _bodiless(self) -> bool:
        return bool(self._messages) and self._messages[-1][1] is EMPTY_PAYLOAD and not self._upgraded
