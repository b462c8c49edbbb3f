"""Fields whose values are not text: opaque bytes, which go on as they came (RFC 9110 §5.5)."""

from __future__ import annotations

import pytest

from tests.support.origin import Origin, a_caller

LATIN = "Größe".encode("latin-1")
VALUES = [
    pytest.param(LATIN, id="Latin-1"),
    pytest.param("Größe".encode(), id="UTF-8"),
    pytest.param(bytes(range(0x80, 0x100)), id="every byte beyond ASCII"),
    pytest.param(b"a\tb", id="a tab"),
]


def lines(head: bytes, name: bytes) -> list[bytes]:
    """Return the values of the lines of *head* with this *name*."""
    return [value for each, _, value in (line.partition(b": ") for line in head.split(b"\r\n")) if each == name]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("target", [b"/v2/tasks", b"/v2/schemas/image"])
async def test_of_an_answer(origin: Origin, url: str, target: bytes, value: bytes) -> None:
    """Of one that passes through and of one that is stored; that one for those who get it later, too."""
    async with a_caller(url) as caller:
        for ask in range(2):
            caller.send(b"GET %b HTTP/1.1\r\nHost: x\r\nX-Auth-Token: made-up\r\n\r\n" % target)
            if not ask:
                upstream = await origin.end()
            if not ask or target == b"/v2/tasks":
                await upstream.head()
                upstream.send(
                    b"HTTP/1.1 200 Gut\xe4\r\nContent-Type: application/json\r\nContent-Length: 2\r\nX-A: 1\r\n"
                    b"X-Opaque: %b\r\nX-Opaque: 2\r\n\r\n{}" % value
                )
            head = await caller.head()
            assert head.startswith(b"HTTP/1.1 200 Gut\xe4\r\n")
            assert lines(head, b"X-Opaque") == [value, b"2"]
            assert await caller.exactly(2) == b"{}"


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize(
    ("method", "length", "body"), [(b"GET", [], b""), (b"DELETE", [b"0"], b""), (b"DELETE", [b"4"], b"body")]
)
async def test_of_a_request(
    origin: Origin, url: str, method: bytes, length: list[bytes], body: bytes, value: bytes
) -> None:
    """With a body and without; the connection goes on."""
    async with a_caller(url) as caller:
        for ask in range(2):
            framing = b"Content-Length: %d\r\n\r\n" % len(body) if body else b"\r\n"
            caller.send(b"%b /v2/tasks HTTP/1.1\r\nHost: x\r\nX-Opaque: %b\r\n%b%b" % (method, value, framing, body))
            if not ask:
                upstream = await origin.end()
            head = await upstream.head()
            assert head.startswith(b"%b /v2/tasks HTTP/1.1\r\n" % method)
            assert lines(head, b"X-Opaque") == [value]
            assert lines(head, b"Content-Length") == length
            assert not lines(head, b"Transfer-Encoding")
            assert await upstream.exactly(len(body)) == body
            upstream.send(b"HTTP/1.1 204 No Content\r\n\r\n")
            assert (await caller.head()).startswith(b"HTTP/1.1 204 ")


@pytest.mark.parametrize("target", [b"/v2/tasks", b"/v2/schemas/image"])
async def test_white_space_behind_a_name(origin: Origin, url: str, target: bytes) -> None:
    """It is taken away (RFC 9112 §5.1), so that what ends at a proxy does end there, the framing above all."""
    async with a_caller(url) as caller:
        caller.send(b"GET %b HTTP/1.1\r\nHost: x\r\nX-Auth-Token: made-up\r\n\r\n" % target)
        upstream = await origin.end()
        await upstream.head()
        upstream.send(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\nConnection : X-Hop\r\nX-Hop: 1\r\n\r\n"
            b"2\r\n{}\r\n0\r\n\r\n"
        )
        head = await caller.head()
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b" :" not in head
        assert not lines(head, b"X-Hop")
        assert not lines(head, b"Connection")
        if lines(head, b"Content-Length"):
            assert not lines(head, b"Transfer-Encoding")
            assert await caller.exactly(2) == b"{}"
        else:
            assert lines(head, b"Transfer-Encoding") == [b"chunked"]
            assert await caller.until(b"0\r\n\r\n") == b"2\r\n{}\r\n0\r\n\r\n"


async def test_a_control_character_in_a_validator(origin: Origin, url: str) -> None:
    """The parser lets an upstream send one; asked about by it, the resource could not be had any more."""
    async with a_caller(url) as caller:
        for ask in range(2):
            caller.send(b"GET /v2/schemas/image HTTP/1.1\r\nHost: x\r\nX-Auth-Token: made-up\r\n\r\n")
            if not ask:
                upstream = await origin.end()
            assert not lines(await upstream.head(), b"If-None-Match")
            upstream.send(b'HTTP/1.1 200 OK\r\nCache-Control: no-cache\r\nETag: "a\x01"\r\nContent-Length: 2\r\n\r\n{}')
            assert (await caller.head()).startswith(b"HTTP/1.1 200 ")
            assert await caller.exactly(2) == b"{}"


LONG = b"0" * 5000


async def test_a_length_of_too_many_digits(origin: Origin, url: str) -> None:
    """Zeros before it are digits too: refused where a caller sends them, no answer where the upstream does."""
    async with a_caller(url) as caller:
        caller.send(b"POST /v2/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: %b4\r\n\r\nbody" % LONG)
        assert (await caller.head()).startswith(b"HTTP/1.1 400 ")
    async with a_caller(url) as caller:
        caller.send(b"POST /v2/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody")
        upstream = await origin.end()
        await upstream.until(b"body")
        upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %b2\r\n\r\n{}" % LONG)
        assert (await caller.head()).startswith(b"HTTP/1.1 502 ")
