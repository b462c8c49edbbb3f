"""Connections on which requests like those that were answered before need not be parsed."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any, Final, NamedTuple

from aiohttp.streams import EMPTY_PAYLOAD

from proxy.telemetry import event
from proxy.web.half_closed import HalfClosing
from proxy.web.heads import METHODS, alone
from proxy.web.memo import HeadMemo, Known, Peer, Repeat

_NOTHING: Final = b""


class Asked(NamedTuple):
    """A head that is *known* to the memory, and the *epoch* before anything was looked up for it."""

    known: Known
    epoch: int | None


class Repeating(HalfClosing):
    """One caller's connection; it answers from *memo* what need not be parsed.

    That takes a head that is alone: nothing before it is unfinished, no answer is under way, nothing follows it.
    *asked* is such a head that is on its whole way through now.

    A body that has to be made anew is sought by a task. Until that is done, or the request has been sent on its whole
    way instead, whatever comes behind it is held, and so is the end of the connection.
    """

    def __init__(self, manager: Any, memo: HeadMemo | None, **settings: Any) -> None:
        super().__init__(manager, **settings)
        self.asked: Asked | None = None
        self._memo = memo
        self._peer: Peer | None = None
        self._at_start = True  # what comes next is the beginning of a message
        self._seeking: asyncio.Task[None] | None = None
        self._held = _NOTHING
        self._stopped = self._eof = self._closing = False  # what befell the connection meanwhile

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
        self._held = _NOTHING
        if self._peer is not None:
            self._peer.forget()

    def data_received(self, data: bytes) -> None:
        """Answer *data* if it is a request that was answered lately, else let it be parsed."""
        if self._seeking is not None:
            self._hold(data)
            return
        known = self._known(data)
        if known is None or not self._repeated(known, data):
            self._parse(data, known)

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio asks for it, aiohttp always says None
        """See `HalfClosing.eof_received`."""
        if self._seeking is None:
            return super().eof_received()
        self._eof = True
        return not self._over_tls

    def close(self) -> None:
        """Take no further requests, and end once that is answered which is under way."""
        if self._seeking is None:
            super().close()
        else:
            self._closing = True

    async def shutdown(self, timeout: float | None = 15.0) -> None:  # noqa: ASYNC109 - aiohttp's signature
        """Close once what is under way is answered, or after *timeout* seconds."""
        if self._seeking is not None:
            await asyncio.wait([self._seeking], timeout=timeout)
        await super().shutdown(timeout)

    @property
    def idle(self) -> bool:
        """Whether no request is under way: none came, or none came whole, since the last answer."""
        return self._seeking is None and self._waiter is not None and not self._waiter.done()

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
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
            self._seeking = self._loop.create_task(self._seek(repeat, known, data, started))
        return True

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

    async def _seek(self, repeat: Repeat, known: Known, data: bytes, started: float) -> None:
        """Answer *data* with a body that is made anew, or on its whole way, and take up what came meanwhile."""
        try:
            body = await repeat.made_anew()
        except Exception:  # noqa: BLE001 - whatever it is, on its whole way it is told of
            body = None
        self._seeking = None
        assert self._memo is not None
        transport = self.transport
        if transport is None or transport.is_closing():
            repeat.gone().served(time.perf_counter() - started, known.request_id or self._memo.new_id())
            return
        try:
            # What was true when the body was asked for may have ended since.
            if body is not None and self._memo.find(known) is repeat:
                self._give(repeat, body, known, started)
            else:
                self._parse(data, known)
            self._go_on()
        except Exception as error:  # noqa: BLE001 - as the loop does where it is the one that gives data to a protocol
            event("failed", level=logging.ERROR, error=type(error).__name__)
            transport.abort()

    def _hold(self, data: bytes) -> None:
        """Keep *data* until its turn comes, and read no further until then."""
        self._held += data
        if not self._stopped:
            self._stopped = True
            self._pause_transport_reading()

    def _go_on(self) -> None:
        """Take up what has happened to the connection meanwhile."""
        if self._held:
            held, self._held = self._held, _NOTHING
            self.data_received(held)
        if self._seeking is not None:
            return
        if self._stopped:
            self._stopped = False
            if not self._reading_paused and not self._buffer_paused:
                self._resume_transport_reading()
        if self._closing:
            self.close()
        if self._eof and self.transport is not None and not self.eof_received():
            self.transport.close()
