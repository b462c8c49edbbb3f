"""`Expect: 100-continue`: a body is sent once the upstream wants it, and not before (RFC 9110 §10.1.1)."""

from __future__ import annotations

import pytest

from proxy.upstream import client as upstream_client
from tests.support.origin import Origin, a_caller

PUT = b"PUT /v2/images/x/file HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


async def test_the_upstream_asks_for_the_body(origin: Origin, url: str) -> None:
    """It sees the expectation and no byte of the body; its 100 goes to the caller, whose body then goes up."""
    async with a_caller(url) as caller:
        caller.send(PUT)
        upstream = await origin.end()
        head = await upstream.head()
        assert b"\r\nexpect: 100-continue\r\n" in head.lower()
        upstream.send(CONTINUE)
        assert await caller.head() == CONTINUE
        caller.send(b"hello")
        assert await upstream.exactly(5) == b"hello"
        upstream.send(OK)
        assert (await caller.head()).startswith(b"HTTP/1.1 200 ")
        assert await caller.exactly(2) == b"ok"


async def test_a_body_that_is_not_wanted_is_never_sent(origin: Origin, url: str) -> None:
    """The upstream refuses by the head alone: the caller hears it without a 100, and both connections end."""
    async with a_caller(url) as caller:
        caller.send(PUT)
        upstream = await origin.end()
        await upstream.head()
        upstream.send(b"HTTP/1.1 413 Too Big\r\nContent-Length: 2\r\n\r\nno")
        head = await caller.head()
        assert head.startswith(b"HTTP/1.1 413 Too Big\r\n")
        assert b"\r\nConnection: close\r\n" in head
        assert await caller.rest() == b"no"
        assert await upstream.rest() == b""


@pytest.mark.parametrize("body", [b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"])
async def test_an_upstream_that_never_asks_gets_the_body_all_the_same(
    origin: Origin, url: str, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    """After a while it is sent, for there are servers that know no 100."""
    monkeypatch.setattr(upstream_client, "CONTINUE_S", 0.05)
    async with a_caller(url) as caller:
        caller.send(PUT.replace(b"Content-Length: 5\r\n", body))
        upstream = await origin.end()
        await upstream.head()
        assert await caller.head() == CONTINUE
        caller.send(b"hello" if b"5" in body else b"5\r\nhello\r\n0\r\n\r\n")
        await upstream.until(b"hello" if b"5" in body else b"0\r\n\r\n")
        upstream.send(OK)
        assert (await caller.head()).startswith(b"HTTP/1.1 200 ")


async def test_an_answer_that_takes_long_is_not_broken_by_a_100(
    origin: Origin, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once an answer has begun, no interim one is put into it, and the body is not asked for."""
    monkeypatch.setattr(upstream_client, "CONTINUE_S", 0.05)
    async with a_caller(url) as caller, a_caller(url) as another:
        caller.send(PUT)
        upstream = await origin.end()
        await upstream.head()
        upstream.send(b"HTTP/1.1 413 Too Big\r\nContent-Length: 4\r\n\r\nno")
        await caller.head()
        assert await caller.exactly(2) == b"no"
        another.send(PUT)  # which is sent its 100 later than the first would have been
        await (await origin.end()).head()
        assert await another.head() == CONTINUE
        upstream.send(b"no")
        assert await caller.exactly(2) == b"no"


@pytest.mark.parametrize(
    ("sent", "body"),
    [
        pytest.param(PUT.replace(b"HTTP/1.1", b"HTTP/1.0"), b"hello", id="HTTP/1.0"),
        pytest.param(PUT.replace(b"100-continue", b"the-unexpected"), b"hello", id="another expectation"),
        pytest.param(PUT.replace(b"Content-Length: 5", b"Content-Length: 0"), b"", id="no body"),
    ],
)
async def test_what_expects_nothing_is_sent_at_once(origin: Origin, url: str, sent: bytes, body: bytes) -> None:
    """Neither HTTP/1.0, nor a request without a body, nor an expectation that is unknown is waited for."""
    async with a_caller(url) as caller:
        caller.send(sent + body)
        upstream = await origin.end()
        assert b"expect" not in (await upstream.head()).lower()
        assert await upstream.exactly(len(body)) == body
        upstream.send(OK)
        assert b" 200 OK\r\n" in await caller.head()


async def test_a_refusal_of_the_proxy_s_own_asks_for_no_body(url: str) -> None:
    """A caller that is refused by its head keeps its body."""
    async with a_caller(url) as caller:
        caller.send(PUT.replace(b"Host: x", b"Host: x@y"))
        assert (await caller.rest()).startswith(b"HTTP/1.1 400 ")
