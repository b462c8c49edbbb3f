"""Accepts callers' connections: one at a wake-up while few come, and many while a crowd waits.

The event loop's own server accepts one connection each time it turns. With a thousand callers a turn takes a tenth of a
second and more, so the last of a crowd waited for many seconds before anybody heard of it. Several workers share one
listening socket; one that is ahead of the others leaves connections to them, see `proxy.server.worker_load`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Final

from proxy.observability.logging import event
from proxy.server.worker_load import PATIENCE_S, WorkerLoad

_MOST_AT_ONCE: Final = 64
_PAUSE_S: Final = 1.0
_LOOK_S: Final = 0.001
_HANDSHAKES_S: Final = 0.25  # in which TLS handshakes end that have begun when it is stopped


class Acceptor:
    """Accepts connections at listening *sockets*, and makes each a protocol from *factory*, by TLS with a *context*.

    With a *load* it leaves connections to other workers that have fewer.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        factory: Callable[[], asyncio.BaseProtocol],
        *,
        context: ssl.SSLContext | None = None,
        load: WorkerLoad | None = None,
    ) -> None:
        self._sockets = sockets
        self._factory = factory
        self._context = context
        self._load = load
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
            while self._accept_one(each):
                pass
            if pause := self._paused.pop(each, None):
                pause.cancel()
            each.close()
        if self._connecting:
            _, unfinished = await asyncio.wait(self._connecting, timeout=_HANDSHAKES_S)
            for task in unfinished:
                task.cancel()
            await asyncio.gather(*unfinished, return_exceptions=True)

    def _resume(self, listening: socket.socket) -> None:
        self._paused.pop(listening, None)
        asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def _accept(self, listening: socket.socket) -> None:
        """Accept some of those who wait at *listening*."""
        for _ in range(self._at_once[listening]):
            if self._load is not None and self._load.is_ahead():
                asyncio.get_running_loop().remove_reader(listening)
                self._wait_for_peers(listening, self._load, asyncio.get_running_loop().time() + PATIENCE_S)
                return
            if not self._accept_one(listening):
                self._at_once[listening] = 1
                return
        self._at_once[listening] = min(2 * self._at_once[listening], _MOST_AT_ONCE)

    def _wait_for_peers(self, listening: socket.socket, load: WorkerLoad, until: float) -> None:
        """Look again and again whether peers have caught up, and accept what still waits after *until*."""
        loop = asyncio.get_running_loop()
        if load.is_ahead() and loop.time() < until:
            self._paused[listening] = loop.call_later(_LOOK_S, self._wait_for_peers, listening, load, until)
            return
        still_ahead = load.is_ahead()
        self._resume(listening)
        if still_ahead and self._accept_one(listening):
            load.overtake()

    def _accept_one(self, listening: socket.socket) -> bool:
        """Accept one of those who wait at *listening*, and return whether there was one."""
        try:
            connection, _ = listening.accept()
        except (BlockingIOError, InterruptedError):
            return False
        except ConnectionAbortedError:
            return True
        except OSError as error:
            event("accept_failed", level=logging.ERROR, error=error.strerror)
            self._pause(listening)
            return False
        connection.setblocking(False)
        if self._load is not None:
            self._load.accepted()
        self._connect(connection)
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
        if self._load is not None:
            self._load.opened()  # the server counts it too, once it is connected; for a moment it counts twice
        try:
            await loop.connect_accepted_socket(self._factory, connection, ssl=self._context)
        except OSError:  # `ssl.SSLError` among them
            connection.close()  # it went away, or its TLS handshake failed
        except asyncio.CancelledError:
            connection.close()
            raise
        finally:
            if self._load is not None:
                self._load.closed()
