"""More connections than there may be."""

from __future__ import annotations

import asyncio
import resource
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from proxy.demo.app import ImsLookalike
from proxy.runtime.rlimits import max_client_connections
from proxy.server.connection import Connection, Server
from tests.support.running import a_proxy

ASKED = b"GET /v2/images?limit=5 HTTP/1.1\r\nHost: x\r\nX-Auth-Token: demo-token-alpha\r\n\r\n"

Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Nowhere(asyncio.Transport):
    """A connection that leads nowhere."""

    def close(self) -> None:
        """Do nothing: nobody is there."""


async def answered(line: Line) -> bytes:
    """Return the status line of the next answer, `b""` where the connection ends instead."""
    reader, _ = line
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""
    await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split()[0]))
    return head.partition(b"\r\n")[0]


@pytest.fixture(autouse=True)
def _room_for_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.runtime.app.max_client_connections", lambda _limit, **_: 2)


@pytest.mark.parametrize("begun", [b"", ASKED[:20]], ids=["silent", "half a head"])
async def test_the_oldest_that_is_idle_makes_room(upstream: ImsLookalike, begun: bytes) -> None:
    """Who holds connections without asking anything keeps nobody out, neither callers nor operators."""
    async with a_proxy(upstream.base_url) as proxy, asyncio.timeout(60):
        port = urlsplit(str(proxy.client.url)).port
        lines: list[Line] = []
        for _ in range(4):
            line = await asyncio.open_connection("127.0.0.1", port)
            lines.append(line)
            line[1].write(ASKED)
            assert await answered(line) == b"HTTP/1.1 200 OK"
            line[1].write(begun)
        assert [await answered(line) for line in lines[:2]] == [b"", b""]
        lines[3][1].write(ASKED[len(begun) :])
        assert await answered(lines[3]) == b"HTTP/1.1 200 OK"
        for _, writer in lines:
            writer.close()


async def test_a_request_that_has_just_come_is_under_way() -> None:
    """Before the loop has come to begin with it, too: who came first makes no room while one has arrived."""

    async def handler(_: object) -> web.StreamResponse:
        return web.Response()

    server = Server(handler, None, max_connections=1, on_unreadable=lambda _status, _known_as: None)
    connection = server()
    assert isinstance(connection, Connection)
    connection.connection_made(Nowhere())
    async with asyncio.timeout(60):
        while not connection.is_idle:
            await asyncio.sleep(0)
    connection.data_received(ASKED)
    assert not connection.is_idle
    connection.connection_lost(None)
    await asyncio.sleep(0)  # in which its task ends


async def test_who_waits_for_an_answer_keeps_its_connection(upstream: ImsLookalike) -> None:
    """Where every connection has a request under way, the new one is closed."""
    gate, arrived = asyncio.Event(), asyncio.Semaphore(0)

    async def script(_: object) -> None:
        arrived.release()
        await gate.wait()

    upstream.response_hook = script
    async with a_proxy(upstream.base_url) as proxy, asyncio.timeout(60):
        port = urlsplit(str(proxy.client.url)).port
        lines = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        for number, (_, writer) in enumerate(lines):
            writer.write(ASKED.replace(b"limit=5", b"name=%d" % number))
            await arrived.acquire()
        late = await asyncio.open_connection("127.0.0.1", port)
        late[1].write(ASKED)
        assert await answered(late) == b""
        gate.set()
        assert [await answered(line) for line in lines] == [b"HTTP/1.1 200 OK"] * 2
        for _, writer in (*lines, late):
            writer.close()


@pytest.mark.parametrize(
    ("limit", "most"), [(1024, 832), (256, 64), (64, 16), (resource.RLIM_INFINITY, 1_000_000)], ids=str
)
def test_callers_leave_some_files_to_others(limit: int, most: int) -> None:
    """To the upstream what it may have, to the store and operators a number; callers get a few in any case."""
    assert max_client_connections(limit, upstream_connections=64) == most
