"""What passes through, byte by byte, between a caller and an upstream that a test plays both of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.support.origin import End, Origin, a_caller
from tests.support.running import a_proxy

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
async def caller(origin: Origin) -> AsyncIterator[End]:
    async with a_proxy(origin.url) as proxy, a_caller(proxy.client.url) as end:
        yield end


def values(head: bytes, name: bytes) -> list[bytes]:
    """Return the values of a field, in order."""
    lines = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    return [value.strip() for told, _, value in lines if told.lower() == name]


@pytest.mark.parametrize(
    ("line", "kind", "body"),
    [
        (b"DELETE /v2/images/x", b"application/json", b'{"delete_backup":true}'),
        (b"PATCH /v2/images/x", b"application/openstack-images-v2.1-json-patch", b"[]"),
        (b"PATCH /v2/images/x", b"application/openstack-images-v2.0-json-patch;x=y", b"[]"),
        (b"GET /v2/images/x", b"text/plain", b"a body all the same"),
        (b"OPTIONS /v2/images/x", b"application/json", b"{}"),
        (b"PROPFIND /v2/images/x", b"application/xml", b"<x/>"),
    ],
)
async def test_a_body_goes_up_with_any_method(
    origin: Origin, caller: End, line: bytes, kind: bytes, body: bytes
) -> None:
    """Method, target, type, length and bytes arrive as they were sent."""
    sent = b"%b HTTP/1.1\r\nHost: x\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b"
    caller.send(sent % (line, kind, len(body), body))
    upstream = await origin.end()
    head = await upstream.head()
    assert head.startswith(line + b" HTTP/1.1\r\n")
    assert values(head, b"content-type") == [kind]
    assert values(head, b"content-length") == [b"%d" % len(body)]
    assert await upstream.exactly(len(body)) == body
    upstream.send(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert (await caller.head()).startswith(b"HTTP/1.1 204 No Content\r\n")


async def test_a_head_tells_a_length_and_has_no_body(origin: Origin, caller: End) -> None:
    """The upstream's length stands in the answer, and the next answer follows right behind it."""
    caller.send(GET.replace(b"GET", b"HEAD"))
    upstream = await origin.end()
    assert (await upstream.head()).startswith(b"HEAD /a HTTP/1.1\r\n")
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 123456\r\nContent-Type: a/b\r\n\r\n")
    head = await caller.head()
    assert values(head, b"content-length") == [b"123456"]
    assert values(head, b"content-type") == [b"a/b"]
    caller.send(GET)
    await upstream.head()
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert (await caller.head()).startswith(b"HTTP/1.1 200 OK\r\n")
    assert await caller.exactly(2) == b"ok"


async def test_trailers_end_here(origin: Origin, caller: End) -> None:
    """An answer in chunks comes in chunks, without its trailers and what announces them (RFC 9110 §6.5.1)."""
    caller.send(GET)
    upstream = await origin.end()
    await upstream.head()
    upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Digest\r\n\r\n")
    upstream.send(b"5;a=b\r\nhello\r\n0\r\nX-Digest: 1\r\nConnection: close\r\n\r\n")
    head = await caller.head()
    assert values(head, b"transfer-encoding") == [b"chunked"]
    assert values(head, b"trailer") == values(head, b"x-digest") == []
    assert await caller.until(b"0\r\n\r\n") == b"5\r\nhello\r\n0\r\n\r\n"


async def test_every_hop_stands_in_via(origin: Origin, caller: End) -> None:
    """Behind those that were there, in one line, both ways (RFC 9110 §7.6.3)."""
    caller.send(GET.replace(b"\r\n\r\n", b"\r\nVia: 1.0 a\r\nVIA: 1.1 b (c)\r\n\r\n"))
    upstream = await origin.end()
    assert values(await upstream.head(), b"via") == [b"1.0 a, 1.1 b (c), 1.1 ims-proxy"]
    upstream.send(b"HTTP/1.1 200 OK\r\nVia: 1.1 d\r\nContent-Length: 0\r\n\r\n")
    assert values(await caller.head(), b"via") == [b"1.1 d, 1.1 ims-proxy"]


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", id="two lengths"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello", id="a negative length"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n", id="bad chunks"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            id="both",
        ),
        pytest.param(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", id="a switch"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n\r\n", id="another protocol"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX-A: b\0c\r\nContent-Length: 0\r\n\r\n", id="NUL in a field"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX A: b\r\nContent-Length: 0\r\n\r\n", id="a name with a space"),
    ],
)
async def test_an_answer_in_doubt_is_no_answer(origin: Origin, caller: End, answer: bytes) -> None:
    """A 502, or a connection cut in the middle: never a whole answer that two clients could divide differently."""
    caller.send(b"POST /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    upstream = await origin.end()
    await upstream.head()
    upstream.send(answer)
    got = await caller.rest()
    assert got.startswith(b"HTTP/1.1 502 ") or (b"chunked" in got and not got.endswith(b"0\r\n\r\n"))


@pytest.mark.parametrize("head_first", [True, False], ids=["head and body apart", "in one"])
async def test_a_body_that_can_t_be_divided_is_not_waited_for(origin: Origin, caller: End, head_first: bool) -> None:
    """A list is asked for again at once, though the upstream that sent bad chunks holds its connection."""
    caller.send(b"GET /v2/images HTTP/1.1\r\nHost: x\r\nX-Auth-Token: t\r\n\r\n")
    upstream = await origin.end()
    await upstream.head()
    upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    if head_first:
        await upstream.writer.drain()
    upstream.send(b"zz\r\n")
    async with asyncio.timeout(20):  # less than the upstream may take for its next bytes
        again = await origin.end()
        await again.head()
        again.send(b'HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{"images":[]}')
        assert (await caller.head()).startswith(b"HTTP/1.1 200 OK\r\n")
    upstream.cut()
