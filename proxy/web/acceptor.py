"""Accepts callers' connections: one at a wake-up while few come, and many while a crowd waits.

The event loop's own server accepts one connection each time it turns. With a thousand callers a turn takes a tenth of a
second and more, so the last of a crowd waited for many seconds before anybody heard of it. Several workers share one
listening socket; there the small steps at the beginning leave each its part of a burst.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Final

_MOST_AT_ONCE: Final = 64
_PAUSE_S: Final = 1.0
_HANDSHAKES_S: Final = 1.0  # how long those who are connecting when it stops may still take
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Acceptor:
    """Accepts connections at listening *sockets*, and makes each a protocol from *factory*, by TLS with a *context*."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        factory: Callable[[], asyncio.BaseProtocol],
        *,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._sockets = sockets
        self._factory = factory
        self._context = context
        self._at_once = dict.fromkeys(sockets, 1)
        self._paused: dict[socket.socket, asyncio.TimerHandle] = {}
        self._connecting: set[asyncio.Task[object]] = set()

    def start(self) -> None:
        """Begin to accept on the running loop."""
        for each in self._sockets:
            each.setblocking(False)
            self._resume(each)

    async def stop(self) -> None:
        """Accept what already waits, and then nobody any more. The sockets are closed.

        Who is slow to begin TLS is not waited for: one who connects and says nothing would keep the proxy from ending.
        """
        for each in self._sockets:
            asyncio.get_running_loop().remove_reader(each)
            self._at_once[each] = _MOST_AT_ONCE
            while self._accept(each):
                pass
            if pause := self._paused.pop(each, None):
                pause.cancel()
            each.close()
        if self._connecting:
            _, late = await asyncio.wait(self._connecting, timeout=_HANDSHAKES_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _resume(self, listening: socket.socket) -> None:
        self._paused.pop(listening, None)
        asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def _accept(self, listening: socket.socket) -> bool:
        """Accept some of those who wait at *listening*, and return whether more may wait."""
        for _ in range(self._at_once[listening]):
            try:
                connection, _ = listening.accept()
            except (BlockingIOError, InterruptedError):
                self._at_once[listening] = 1
                return False
            except ConnectionAbortedError:
                continue
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._pause(listening)
                return False
            connection.setblocking(False)
            self._connect(connection)
        self._at_once[listening] = min(2 * self._at_once[listening], _MOST_AT_ONCE)
        return True

    def _pause(self, listening: socket.socket) -> None:
        """Leave connections where they wait: there is no descriptor or memory for them now."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening)
        self._paused[listening] = loop.call_later(_PAUSE_S, self._resume, listening)

    def _connect(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._connected(connection))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connected(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(self._factory, connection, ssl=self._context)
        except (OSError, ssl.SSLError, asyncio.CancelledError):
            connection.close()  # it went away, its TLS handshake failed, or the proxy stops
