"""The acceptor: a crowd is let in at once, a burst is shared among workers, and nobody is left at the door."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.server.acceptor import Acceptor
from tests.support.certificates import Authority
from tests.support.waiting import until


class Greeting(asyncio.Protocol):
    """Says hello and hangs up."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"hello")
        transport.close()


@pytest.fixture
def listening() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0), backlog=512)


def connect(listening: socket.socket) -> socket.socket:
    client = socket.create_connection(listening.getsockname(), timeout=30)
    client.setblocking(False)
    return client


async def greeting(client: socket.socket) -> bytes:
    with client:
        async with asyncio.timeout(60):
            return await asyncio.get_running_loop().sock_recv(client, 100)


async def test_each_caller_is_let_in(listening: socket.socket) -> None:
    acceptor = Acceptor([listening], Greeting)
    acceptor.start()
    clients = [connect(listening) for _ in range(20)]
    assert await asyncio.gather(*map(greeting, clients)) == [b"hello"] * 20
    await acceptor.stop()


async def test_crowd_is_let_in_within_a_few_turns_of_the_loop(listening: socket.socket) -> None:
    made = 0

    def factory() -> asyncio.Protocol:
        nonlocal made
        made += 1
        return Greeting()

    clients = [connect(listening) for _ in range(400)]
    acceptor = Acceptor([listening], factory)
    acceptor.start()
    turns = 0
    while made < len(clients):
        turns += 1
        assert turns < 40, f"{made} of {len(clients)} let in"
        await asyncio.sleep(0.001)
    await acceptor.stop()
    for client in clients:
        client.close()


async def test_burst_is_shared_by_those_who_accept_at_one_socket(listening: socket.socket) -> None:
    made = [0, 0]

    def counting(number: int) -> Callable[[], asyncio.Protocol]:
        def factory() -> asyncio.Protocol:
            made[number] += 1
            return Greeting()

        return factory

    acceptors = [Acceptor([each], counting(number)) for number, each in enumerate((listening, listening.dup()))]
    clients = [connect(listening) for _ in range(64)]
    for acceptor in acceptors:
        acceptor.start()
    await until(lambda: sum(made) == len(clients))
    assert min(made) >= len(clients) / 4
    for acceptor in acceptors:
        await acceptor.stop()
    for client in clients:
        client.close()


async def test_those_who_wait_when_it_stops_are_still_let_in(listening: socket.socket) -> None:
    acceptor = Acceptor([listening], Greeting)
    clients = [connect(listening) for _ in range(100)]
    acceptor.start()
    await acceptor.stop()
    assert await asyncio.gather(*map(greeting, clients)) == [b"hello"] * 100


async def test_without_descriptors_callers_wait_and_are_let_in_later(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = 3

    class Exhausted:
        """A listening socket whose process has no descriptor left for a while."""

        def __getattr__(self, name: str) -> object:
            return getattr(listening, name)

        def accept(self) -> tuple[socket.socket, object]:
            nonlocal refusals
            if refusals:
                refusals -= 1
                raise OSError(errno.EMFILE, "no descriptor")
            return listening.accept()

    monkeypatch.setattr("proxy.server.acceptor._ACCEPT_RETRY_S", 0.01)
    acceptor = Acceptor([Exhausted()], Greeting)  # type: ignore[list-item]
    acceptor.start()
    assert await greeting(connect(listening)) == b"hello"
    await acceptor.stop()


async def test_caller_who_never_begins_tls_does_not_keep_it_from_stopping(
    listening: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.server.acceptor._MAX_HANDSHAKE_WAIT_S", 0.01)
    pair = Authority(tmp_path).pair("server", "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    acceptor = Acceptor([listening], Greeting, ssl_context=context)
    silent = connect(listening)
    acceptor.start()
    async with asyncio.timeout(30):  # the event loop gives up a handshake after 60
        await acceptor.stop()
    assert await greeting(silent) == b"", "its connection is closed"


async def test_stopping_without_descriptors_leaves_nothing_to_be_resumed(listening: socket.socket) -> None:
    class Exhausted:
        """A listening socket whose process has no descriptor left."""

        def __getattr__(self, name: str) -> object:
            return getattr(listening, name)

        def accept(self) -> tuple[socket.socket, object]:
            raise OSError(errno.EMFILE, "no descriptor")

    failures: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: failures.append(context))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("proxy.server.acceptor._ACCEPT_RETRY_S", 0.0)
        acceptor = Acceptor([Exhausted()], Greeting)  # type: ignore[list-item]
        acceptor.start()
        await acceptor.stop()
        for _ in range(9):
            await asyncio.sleep(0)
    assert not failures
