"""Connections that can be held: what arrives waits until the answer under way has what it is made of."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from proxy.observability.logging import event
from proxy.server.half_closed import HalfClosing

Sought = TypeVar("Sought")

_NOTHING: Final = b""


class Holding(HalfClosing):
    """A connection that can be held: bytes that arrive meanwhile, or its end, wait and are taken up in order.

    It is held while a task, one at a time and with a time limit of its own, looks for something.
    """

    def __init__(self, manager: Any, **settings: Any) -> None:
        super().__init__(manager, **settings)
        self._seeking: asyncio.Task[None] | None = None
        self._held = _NOTHING
        self._stopped = self._eof = self._closing = False  # what befell the connection meanwhile

    def connection_lost(self, exc: BaseException | None) -> None:
        """Keep nothing of what was sent."""
        super().connection_lost(exc)
        self._held = _NOTHING

    def eof_received(self) -> bool:  # type: ignore[override]  # see `HalfClosing.eof_received`
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

    @property
    def gone(self) -> bool:
        """Whether nobody is there any more to be answered."""
        return self.transport is None or self.transport.is_closing()

    def hold_for(self, sought: Callable[[], Awaitable[Sought]], then: Callable[[Sought | None], None]) -> None:
        """Hold the connection until *sought* returns, pass its result, None if it failed, to *then*, and go on."""
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        self._seeking = self._loop.create_task(self._waited(sought, then))

    def holds(self, data: bytes) -> bool:
        """Return whether *data* has to wait; if so, keep it, and read no more until the connection goes on."""
        if self._seeking is None:
            return False
        self._held += data
        if not self._stopped:
            self._stopped = True
            self._pause_transport_reading()
        return True

    async def _waited(self, sought: Callable[[], Awaitable[Sought]], then: Callable[[Sought | None], None]) -> None:
        try:
            found = await sought()
        except Exception:  # noqa: BLE001 - what it is, is told where the same is asked for otherwise
            found = None
        self._seeking = None
        try:
            then(found)
            self._go_on()
        except Exception as error:  # noqa: BLE001 - as the loop does where it is the one that gives data to a protocol
            event("failed", level=logging.ERROR, error=type(error).__name__)
            if self.transport is not None:
                self.transport.abort()

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
