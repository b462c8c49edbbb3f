"""GET without a body: what is written, on which connection, and how it ends where no answer comes."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from proxy.core.messages import Fields, Request, Response
from proxy.errors import ProxyError
from proxy.http.negotiation import decode, encode
from proxy.upstream.client import UpstreamClient
from tests.support.origin import End, Origin, an_origin

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    async with an_origin() as listening:
        yield listening


@asynccontextmanager
async def a_client(base: str) -> AsyncIterator[UpstreamClient]:
    client = UpstreamClient(base, connect_s=30.0, read_s=30.0, max_connections=4)
    try:
        yield client
    finally:
        await client.close()


def a_request(*lines: tuple[str, str], target: str = "/v2/images?limit=2") -> Request:
    return Request("GET", target, Fields(lines), request_id="")


async def asked(client: UpstreamClient, end: End, request: Request, answer: bytes = OK) -> tuple[list[bytes], Response]:
    """Return the lines in which *request* came to *end*, which gives *answer*, and what was made of that."""
    fetch = asyncio.create_task(client.fetch(request))
    head = await end.head()
    end.send(answer)
    return head.removesuffix(b"\r\n\r\n").split(b"\r\n"), await fetch


async def connected(client: UpstreamClient, origin: Origin, answer: bytes = OK) -> End:
    """Return the connection on which a first request was answered."""
    fetch = asyncio.create_task(client.fetch(a_request()))
    end = await origin.end()
    await end.head()
    end.send(answer)
    await fetch
    return end


async def test_it_is_written_as_it_is(origin: Origin) -> None:
    """In the order of its lines, values that are no UTF-8 too, behind the origin's name."""
    async with a_client(origin.url) as client:
        end = await connected(client, origin)
        lines, answer = await asked(client, end, a_request(("x-a", "1"), ("X-B", "\udcff"), ("x-a", "2")))
    name = origin.url.removeprefix("http://").encode()
    assert lines == [b"GET /v2/images?limit=2 HTTP/1.1", b"Host: " + name, b"x-a: 1", b"X-B: \xff", b"x-a: 2"]
    assert (answer.status, answer.reason, answer.body) == (200, "OK", b"ok")


async def test_a_signed_name_of_the_origin_stands_alone(origin: Origin) -> None:
    """Two of them would be refused, or another one than was signed be believed."""
    async with a_client(origin.url) as client:
        end = await connected(client, origin)
        lines, _ = await asked(client, end, a_request(("host", "ims.example")))
    assert lines[1:] == [b"host: ims.example"]


async def test_it_goes_below_the_base(origin: Origin) -> None:
    """IAM may stand below a path."""
    async with a_client(f"{origin.url}/identity") as client:
        end = await connected(client, origin)
        lines, _ = await asked(client, end, a_request(target="/v3/auth/tokens"))
    assert lines[0] == b"GET /identity/v3/auth/tokens HTTP/1.1"


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(a_request(("x-a", "1\r\nx-b: 2")), id="in a value"),
        pytest.param(a_request(("x-a", "1\n")), id="half of one"),
        pytest.param(a_request(("x-a", "1\0")), id="NUL"),
        pytest.param(a_request(target="/a HTTP/1.1\r\nx-b: 2"), id="in the target"),
    ],
)
async def test_what_would_be_read_as_another_field_is_not_sent(origin: Origin, request_: Request) -> None:
    """Nothing of it is: the next request is the first thing that the connection carries."""
    async with a_client(origin.url) as client:
        end = await connected(client, origin)
        with pytest.raises(ValueError, match="head: "):
            await client.fetch(request_)
        lines, _ = await asked(client, end, a_request())
    assert [line.partition(b" ")[0] for line in lines] == [b"GET", b"Host:"]


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", id="half a body"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZ\r\n", id="bad chunks"),
        pytest.param(b"SSH-2.0-OpenSSH\r\n\r\n", id="no HTTP"),
        pytest.param(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", id="a switch"),
        pytest.param(b"", id="nothing"),
    ],
)
async def test_what_is_no_whole_answer_ends_its_connection(origin: Origin, answer: bytes) -> None:
    """It is an error of the proxy's own, and the next request goes another way."""
    async with a_client(origin.url) as client:
        fetch = asyncio.create_task(client.fetch(a_request()))
        end = await origin.end()
        await end.head()
        end.send(answer)
        end.writer.write_eof()
        with pytest.raises(ProxyError):
            await fetch
        assert await end.rest() == b""
        await connected(client, origin)


async def test_a_connection_that_the_answer_ends_is_not_used_again(origin: Origin) -> None:
    """`Connection: close` is the upstream's last word on it."""
    async with a_client(origin.url) as client:
        end = await connected(client, origin, OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert await end.rest() == b""
        await connected(client, origin)


async def test_who_no_longer_waits_leaves_no_connection_behind(origin: Origin) -> None:
    """Its answer may still come, and would be the next one's."""
    async with a_client(origin.url) as client:
        fetch = asyncio.create_task(client.fetch(a_request()))
        end = await origin.end()
        await end.head()
        fetch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetch
        assert await end.rest() == b""


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
async def test_large_coded_answer_is_decoded_in_a_thread(
    origin: Origin, coding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small one is decoded at once; a damaged one is the same error either way."""
    threads: list[threading.Thread] = []

    def noting(body: bytes, coding: str, *, max_bytes: int) -> bytes | None:
        threads.append(threading.current_thread())
        return decode(body, coding, max_bytes=max_bytes)

    monkeypatch.setattr("proxy.upstream.client.decode", noting)
    async with a_client(origin.url) as client:
        end = await connected(client, origin)
        for plain in (b"small" * 200, random.Random(7).randbytes(20_000)):
            coded = encode(plain, coding)
            head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\nContent-Length: {len(coded)}\r\n\r\n".encode()
            _, answer = await asked(client, end, a_request(), head + coded)
            assert answer.body == plain
            with pytest.raises(ProxyError):
                await asked(client, end, a_request(), head + bytes(len(coded)))
    assert [each is threading.main_thread() for each in threads] == [True, True, False, False]
