"""Requests that try something: answered in the gateway's words, without an echo, and without harm to others."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from proxy.demo.app import ImsLookalike
from tests.support.running import Client, Proxy

SECRET = b"s3cr3t-token"


def parsed(got: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
    """Return status, fields by lower-case name, and body of the first answer in *got*."""
    head, _, body = got.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
    return int(first.split(b" ")[1]), fields, body


def request(line: bytes, *lines: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join([line, b"Connection: close", *lines, b"", body])


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param(request(b"GET http://evil.example/v2/images HTTP/1.1", b"Host: x"), 400, id="absolute form"),
        pytest.param(request(b"GET v2/images HTTP/1.1", b"Host: x"), 400, id="no slash"),
        pytest.param(request(b"GET * HTTP/1.1", b"Host: x"), 400, id="a star"),
        pytest.param(request(b"GET /v2/images?a=\xe9 HTTP/1.1", b"Host: x"), 400, id="a raw byte beyond ASCII"),
        pytest.param(request(b"GET /v2/images?a#b HTTP/1.1", b"Host: x"), 400, id="a fragment"),
        pytest.param(request(b"GET /v2/images HTTP/1.1", b"Host: x", b"Host: y"), 400, id="two hosts"),
        pytest.param(request(b"CONNECT x:443 HTTP/1.1", b"Host: x"), 501, id="CONNECT"),
        pytest.param(request(b"TRACE /v2/images HTTP/1.1", b"Host: x"), 501, id="TRACE"),
        pytest.param(request(b"GET /v2/images HTTP/9.9", b"Host: x"), 400, id="a version to come"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 40 + b"\r\n\r\n", 400, id="TLS"),
        pytest.param(request(b"GET / HTTP/1.1", b"Host: x", b"Bad Name: 1"), 400, id="a space in a name"),
        pytest.param(request(b"GET / HTTP/1.1", b"Host: x", b"X: a\0b"), 400, id="NUL in a value"),
        pytest.param(request(b"GET / HTTP/1.1", b"Host: x", b"Content-Length: x"), 400, id="a length that is none"),
        pytest.param(
            request(b"POST / HTTP/1.1", b"Host: x", b"Content-Length: 3", b"Transfer-Encoding: chunked"), 400, id="both"
        ),
        pytest.param(
            request(b"GET / HTTP/1.1", b"Host: x", b"X-Auth-Token: " + SECRET + b"a" * 70_000), 431, id="a long field"
        ),
        pytest.param(request(b"GET /" + SECRET + b"a" * 70_000 + b" HTTP/1.1", b"Host: x"), 414, id="a long target"),
        pytest.param(request(b"GET / HTTP/1.1", b"Host: x", b"X: \x01" + SECRET), 400, id="a control character"),
    ],
)
async def test_what_is_not_understood_is_refused_without_an_echo(
    client: Client, upstream: ImsLookalike, sent: bytes, status: int
) -> None:
    """The answer has the gateway's shape, quotes nothing, and the upstream hears nothing."""
    got, fields, body = parsed(await client.raw(sent))
    assert got == status
    told = orjson.loads(body)
    assert set(told) == {"error_code", "error_msg", "request_id"}
    assert told["error_code"] == f"PROXY.0{got}"
    assert fields[b"x-request-id"].decode() == told["request_id"]
    assert fields[b"cache-status"].startswith(b"ims-proxy; fwd=bypass")
    for hostile in (SECRET, b"a" * 40, b"evil", b"<html", b"aiohttp", b"Traceback"):
        assert hostile not in body
    assert not upstream.calls


async def test_a_refused_request_leaves_others_alone(proxy: Proxy, client: Client) -> None:
    """After a hundred bad ones the next good one is answered, and the bad ones were counted."""
    for _ in range(100):
        await client.raw(b"BAD\r\n\r\n")
    assert (await client.ask("/v2/images?limit=1")).status == 200


@pytest.mark.parametrize(
    "smuggled",
    [
        b"POST /v2/images HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\nContent-Length: 0\r\n\r\nGET /x",
        b"POST /v2/images HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\n\r\n",
        b"POST /v2/images HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\n\r\n",
        b"GET /v2/images HTTP/1.1\r\nHost: x\r\n X-Folded: y\r\n\r\n",
    ],
    ids=["two lengths", "an unknown coding", "a space before the colon", "a folded line"],
)
async def test_ambiguous_framing_is_refused(client: Client, upstream: ImsLookalike, smuggled: bytes) -> None:
    """Nothing that two servers could divide differently goes on."""
    status, _, _ = parsed(await client.raw(smuggled))
    assert status == 400
    assert not [call for call in upstream.calls if call.target == "/x"]


@pytest.mark.parametrize(
    "target",
    [
        "/v2/images?limit=1%26marker=x",
        "/v2/images?name=a%26owner%3Db",
        "/v2/images?name=%3F%2F..%2F",
        "/v2/images?tag=a=b=c",
        "/v2/images?name=%25&limit=3",
    ],
)
async def test_escaped_delimiters_never_leave_their_value(client: Client, direct: Client, target: str) -> None:
    """What the upstream makes of the canonical query is what it makes of the caller's."""
    expected, got = await direct.ask(target), await client.ask(target)
    assert got.status == expected.status
    if expected.status == 200:
        assert got.json()["images"] == expected.json()["images"]


@pytest.mark.parametrize("line", [b"Host: u@x", b"Host:", b"Host: x, y", b"Host: x\r\nTransfer-Encoding:"])
async def test_what_was_answered_before_is_refused_all_the_same(client: Client, line: bytes) -> None:
    """A request that differs from one that is answered from memory only in what is refused is refused."""
    token = b"X-Auth-Token: demo-token-alpha"
    good = b"\r\n".join([b"GET /v2/images?limit=2 HTTP/1.1", b"Host: x", token, b"", b""])
    host, _, port = client.url.removeprefix("http://").rpartition(":")
    async with asyncio.timeout(60):
        reader, writer = await asyncio.open_connection(host, int(port))
        for _ in range(3):
            writer.write(good)
            fields = parsed(await reader.readuntil(b"\r\n\r\n"))[1]
            await reader.readexactly(int(fields[b"content-length"]))
        assert fields[b"cache-status"].startswith(b"ims-proxy; hit")
        writer.write(good.replace(b"Host: x", line))
        assert parsed(await reader.read())[0] == 400
        writer.close()
