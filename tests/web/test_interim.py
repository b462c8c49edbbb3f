"""Interim answers of the upstream (RFC 9110 §15.2)."""

from __future__ import annotations

import pytest

from tests.web.origin import Origin, a_caller

GET = b"GET /v2/tasks HTTP/1.%d\r\nHost: x\r\n\r\n"
HINTS = (
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n"
    b"Keep-Alive: timeout=5\r\nConnection: X-Own\r\nX-Own: 1\r\n\r\n"
)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def test_it_reaches_the_caller_before_the_answer_does(origin: Origin, url: str) -> None:
    """At once, as it came but for fields that end at a proxy; then the answer comes, with none of those fields."""
    async with a_caller(url) as caller:
        caller.send(GET % 1)
        upstream = await origin.end()
        await upstream.head()
        upstream.send(HINTS)
        assert await caller.head() == b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n"
        upstream.send(b"HTTP/1.1 102 Processing\r\n\r\n" + OK)
        assert await caller.head() == b"HTTP/1.1 102 Processing\r\n\r\n"
        head = await caller.head()
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"\r\nlink:" not in head.lower()
        assert await caller.exactly(2) == b"ok"


async def test_a_caller_of_http_1_0_hears_nothing_of_it(origin: Origin, url: str) -> None:
    """It would take it for the answer."""
    async with a_caller(url) as caller:
        caller.send(GET % 0)
        upstream = await origin.end()
        await upstream.head()
        upstream.send(HINTS + OK)
        assert (await caller.head()).startswith(b"HTTP/1.0 200 ")


async def test_an_upstream_that_sends_nothing_else_is_given_up(origin: Origin, url: str) -> None:
    """It would hold its caller for ever, and does so for neither of the tries."""
    async with a_caller(url) as caller:
        caller.send(b"POST" + GET[3:] % 1)
        upstream = await origin.end()
        await upstream.head()
        upstream.send(HINTS * 40)
        for _ in range(32):
            assert (await caller.head()).startswith(b"HTTP/1.1 103 ")
        assert (await caller.head()).startswith(b"HTTP/1.1 502 ")


@pytest.mark.parametrize(
    ("target", "body"), [(b"/v2/schemas/image", b'{"name": "image"}'), (b"/v2/images?limit=1", b'{"images": []}')]
)
async def test_what_is_fetched_for_the_store_brings_none(origin: Origin, url: str, target: bytes, body: bytes) -> None:
    """It may be fetched for many, or for nobody any more: on no caller's connection would it stand in its place."""
    async with a_caller(url) as caller:
        caller.send(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\nX-Auth-Token: made-up\r\n\r\n")
        upstream = await origin.end()
        await upstream.head()
        length = b"Content-Length: %d\r\n\r\n" % len(body)
        upstream.send(HINTS + b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" + length + body)
        head = await caller.head()
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"; stored" in head
