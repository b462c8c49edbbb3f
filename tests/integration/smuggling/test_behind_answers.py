"""What the upstream sends behind an answer, which belongs to nobody's request (RFC 9112 §6.3)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.origin import End, Origin, a_caller, an_origin
from tests.support.running import a_proxy

PASSING, KEPT = b"/v2/tasks", b"/v2/schemas/image"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 6\r\n\r\n"
FORGED = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"
BEHIND = [pytest.param(FORGED, id="what reads as an answer"), pytest.param(b"and more", id="what reads as nothing")]


def ask(caller: End, target: bytes) -> None:
    """Send a request for *target* on a connection that goes on."""
    caller.send(b"GET %b HTTP/1.1\r\nHost: x\r\nX-Auth-Token: made-up\r\n\r\n" % target)


async def asked(origin: Origin) -> End:
    """Return a new connection of the proxy's, on which a request has arrived."""
    upstream = await origin.end()
    await upstream.head()
    return upstream


async def assert_answered(caller: End, body: bytes) -> None:
    """Assert that *caller* gets a 200 with *body*."""
    head = await caller.head()
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nContent-Length: 6\r\n" in head
    assert await caller.exactly(6) == body


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    """An upstream that the test plays by hand."""
    async with an_origin() as listening:
        yield listening


@pytest.fixture
async def url(origin: Origin) -> AsyncIterator[str]:
    """Where callers come to a proxy that has one connection to the upstream at a time."""
    async with a_proxy(origin.url, upstream={"max_connections": 1}) as proxy:
        yield proxy.client.url


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("target", [PASSING, KEPT])
async def test_with_the_answer(origin: Origin, url: str, target: bytes, behind: bytes) -> None:
    """The answer is whole, for its length says where it ends, and the connection is not used again."""
    async with a_caller(url) as caller:
        ask(caller, target)
        upstream = await asked(origin)
        upstream.send(HEAD + b'"true"' + behind)
        await assert_answered(caller, b'"true"')
        assert await upstream.rest() == b""
        ask(caller, b"/v2/tasks/next")
        (await asked(origin)).send(HEAD + b'"next"')
        await assert_answered(caller, b'"next"')


@pytest.mark.parametrize("behind", BEHIND)
async def test_with_the_end_of_the_answer(origin: Origin, url: str, behind: bytes) -> None:
    """The same, where its connection is free for others at that moment."""
    async with a_caller(url) as caller:
        ask(caller, PASSING)
        upstream = await asked(origin)
        upstream.send(HEAD + b'"tr')
        assert (await caller.head()).startswith(b"HTTP/1.1 200 ")
        assert await caller.exactly(3) == b'"tr'
        upstream.send(b'ue"' + behind)
        assert await caller.exactly(3) == b'ue"'
        assert await upstream.rest() == b""
        ask(caller, PASSING)
        (await asked(origin)).send(HEAD + b'"next"')
        await assert_answered(caller, b'"next"')


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("target", [PASSING, KEPT])
async def test_later(origin: Origin, url: str, target: bytes, behind: bytes) -> None:
    """While nobody asks, a connection ends with the first byte that arrives on it: the next caller is not given it."""
    async with a_caller(url) as first, a_caller(url) as second:
        ask(first, target)
        upstream = await asked(origin)
        upstream.send(HEAD + b'"true"')
        await assert_answered(first, b'"true"')
        upstream.send(behind)
        assert await upstream.rest() == b""
        ask(second, PASSING)
        (await asked(origin)).send(HEAD + b'"next"')
        await assert_answered(second, b'"next"')


async def test_behind_an_answer_without_a_body(origin: Origin, url: str) -> None:
    """A 304 or an answer to HEAD ends with its head, whatever length stands in it (RFC 9112 §6.3)."""
    async with a_caller(url) as caller:
        caller.send(b"HEAD /v2/tasks HTTP/1.1\r\nHost: x\r\n\r\n")
        upstream = await asked(origin)
        upstream.send(HEAD + b'"true"')
        assert b"\r\nContent-Length: 6\r\n" in await caller.head()
        assert await upstream.rest() == b""


async def test_nothing_behind_it(origin: Origin, url: str) -> None:
    """Then the connection is used again, an interim answer before the next one included."""
    async with a_caller(url) as caller:
        ask(caller, PASSING)
        upstream = await asked(origin)
        upstream.send(HEAD + b'"true"')
        await assert_answered(caller, b'"true"')
        ask(caller, PASSING)
        await upstream.head()
        upstream.send(b"HTTP/1.1 103 Early Hints\r\n\r\n" + HEAD + b'"next"')
        assert (await caller.head()).startswith(b"HTTP/1.1 103 ")
        await assert_answered(caller, b'"next"')
