"""Everything that is not a list: streamed both ways, unaltered but for what a proxy must alter."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from proxy.demo.server import Call, Lookalike
from proxy.web.app import running
from tests.web.conftest import ALPHA, Client, Proxy, a_proxy, settings_for

MB = 1024 * 1024
SCHEMA = "/v2/schemas/image"


@pytest.fixture
async def image_id(client: Client) -> str:
    """An image of alpha's own, without content yet."""
    created = await client.ask(
        "/v2/images",
        method="POST",
        body=b'{"name":"new","disk_format":"qcow2","container_format":"bare"}',
        Content_Type="application/json",
    )
    assert created.status == 201, created.body
    return str(created.json()["id"])


async def test_an_image_is_uploaded_and_downloaded_through_the_proxy(client: Client, image_id: str) -> None:
    """Several megabytes go up and come down, byte for byte."""
    content = bytes(range(256)) * (4 * 5 * 1024)
    target = f"/v2/images/{image_id}/file"
    put = await client.ask(target, method="PUT", body=io.BytesIO(content), Content_Type="application/octet-stream")
    assert put.status == 204
    assert put.cache_status == "ims-proxy; fwd=method; fwd-status=204"
    got = await client.ask(target)
    assert hashlib.sha256(got.body).digest() == hashlib.sha256(content).digest()
    assert got.fields["Content-Length"] == str(len(content))


async def test_an_upload_of_unknown_length_is_streamed(client: Client, image_id: str) -> None:
    """Chunks without a length in advance arrive whole."""

    async def chunks() -> AsyncIterator[bytes]:
        for number in range(64):
            yield bytes([number]) * 65_536

    target = f"/v2/images/{image_id}/file"
    assert (
        await client.ask(target, method="PUT", body=chunks(), Content_Type="application/octet-stream")
    ).status == 204
    assert len((await client.ask(target)).body) == 4 * MB


async def test_an_upload_reaches_the_upstream_before_it_is_complete(client: Client, upstream: Lookalike) -> None:
    """Nothing is collected here first: the upstream's answer may come while the body is still being sent."""
    arrived, release = asyncio.Event(), asyncio.Event()

    async def script(_: Call) -> None:
        arrived.set()

    async def chunks() -> AsyncIterator[bytes]:
        yield b"first"
        await release.wait()
        yield b"last"

    upstream.script = script
    asking = asyncio.create_task(client.ask("/v2/images/x/file", method="PUT", body=chunks()))
    async with asyncio.timeout(10):
        await arrived.wait()
        release.set()
        await asking


async def test_a_download_reaches_the_caller_before_it_is_complete(client: Client, upstream: Lookalike) -> None:
    """The first bytes come while the upstream still holds the last ones back."""
    release = asyncio.Event()

    async def script(call: Call) -> web.StreamResponse | None:
        assert call.transport is not None
        call.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
        await release.wait()
        call.transport.write(b"last.")
        call.transport.close()
        return web.Response()

    upstream.script = script
    host, _, port = client.url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(b"GET /v2/images/x/file HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        async with asyncio.timeout(10):
            await reader.readuntil(b"first")
            release.set()
            assert await reader.read() == b"last."
    finally:
        writer.close()


async def test_a_download_that_breaks_off_breaks_off_here_too(client: Client, upstream: Lookalike) -> None:
    """A caller is never told that half an image is a whole one."""

    async def script(call: Call) -> web.StreamResponse | None:
        assert call.transport is not None
        call.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")
        await asyncio.sleep(0)
        call.transport.close()
        return None

    upstream.script = script
    got = await client.raw(b"GET /v2/images/x/file HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert b"Content-Length: 1000" in got
    assert not got.endswith(b"0\r\n\r\n")
    assert len(got.partition(b"\r\n\r\n")[2]) < 1000


async def test_hop_by_hop_fields_end_here(client: Client, upstream: Lookalike) -> None:
    """Neither those of the standard nor those that `Connection` names cross, in either direction."""

    async def script(_: Call) -> web.StreamResponse:
        return web.Response(
            body=b"{}", headers={"Connection": "X-Up", "X-Up": "1", "Keep-Alive": "timeout=9", "X-Kept": "2"}
        )

    upstream.script = script
    answer = await client.ask(
        SCHEMA,
        fields=[
            ("Connection", "X-Down, close"),
            ("X-Down", "1"),
            ("Keep-Alive", "timeout=5"),
            ("TE", "trailers"),
            ("Proxy-Authorization", "Basic x"),
            ("Upgrade", "websocket"),
            ("X-Kept", "2"),
        ],
    )
    (call,) = upstream.calls
    crossing = {name.lower() for name in call.headers}
    assert "x-kept" in crossing
    assert not {"x-down", "keep-alive", "te", "proxy-authorization", "upgrade"} & crossing
    assert answer.fields["X-Kept"] == "2"
    assert not {"X-Up", "Keep-Alive"} & set(answer.fields)


async def test_fields_cross_unaltered(client: Client, upstream: Lookalike) -> None:
    """Order, repetitions and UTF-8 of what may cross stay, both ways, and so does the reason."""

    async def script(call: Call) -> web.StreamResponse | None:
        assert call.transport is not None
        call.transport.write(
            b"HTTP/1.1 299 Fine Indeed\r\nX-Two: b\r\nX-Two: a\r\nX-Utf: \xc3\xa9\r\nContent-Length: 2\r\n\r\nok"
        )
        return web.Response()

    upstream.script = script
    got = await client.raw(
        b"GET /v2/schemas/image HTTP/1.1\r\nHost: x\r\nX-Two: b\r\nX-Two: a\r\nX-Utf: \xc3\xa9\r\n"
        b"Connection: close\r\n\r\n"
    )
    head, _, body = got.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 299 Fine Indeed"
    assert [line for line in lines if line.startswith(b"X-Two")] == [b"X-Two: b", b"X-Two: a"]
    assert b"X-Utf: \xc3\xa9" in lines
    assert body == b"ok"
    (call,) = upstream.calls
    assert call.headers.getall("X-Two") == ["b", "a"]
    assert call.headers["X-Utf"] == "é"


async def test_targets_cross_unaltered(client: Client, upstream: Lookalike) -> None:
    """The upstream gets the path and query byte for byte."""
    for target in ("/v2/images/a%2Fb?x=%7e&&y", "/v2/../v2/images", "/v2/images/..%2f", "/%00?;=", "/a?b?c", "//x//"):
        await client.ask(target)
        assert upstream.calls[-1].target == target


@pytest.mark.parametrize("size", [1_000, 30_000, 60 * 1024])
async def test_long_fields_cross(client: Client, upstream: Lookalike, size: int) -> None:
    """Tokens of tens of kilobytes reach the upstream, and such fields come back."""

    async def script(_: Call) -> web.StreamResponse | None:
        return web.Response(body=b"{}", headers={"X-Long": "b" * size})

    upstream.script = script
    answer = await client.ask(SCHEMA, token="a" * size)
    assert upstream.calls[0].headers["X-Auth-Token"] == "a" * size
    assert answer.fields["X-Long"] == "b" * size


async def test_a_long_token_has_lists_of_its_own(client: Client, upstream: Lookalike) -> None:
    """A token of sixty kilobytes is as good as any: a hit, and nobody else's."""
    long, other = "t" * 61_000 + "1", "t" * 61_000 + "2"
    upstream.tokens |= {long: upstream.tokens[ALPHA], other: upstream.tokens["demo-token-beta"]}
    first = await client.ask("/v2/images?limit=5", token=long)
    assert (await client.ask("/v2/images?limit=5", token=long)).hit
    answer = await client.ask("/v2/images?limit=5", token=other)
    assert not answer.hit
    assert answer.ids != first.ids


@pytest.mark.parametrize("theirs", ["abc-123", "req-01234567-89ab-cdef", "a.b:c_d", "x" * 128])
@pytest.mark.parametrize("target", ["/v2/images?limit=1", SCHEMA])
async def test_a_sane_request_id_is_kept(client: Client, upstream: Lookalike, target: str, theirs: str) -> None:
    """The upstream sees it, and so does the answer."""
    answer = await client.ask(target, X_Request_Id=theirs)
    assert answer.fields["X-Request-Id"] == theirs
    assert upstream.calls[0].headers.getall("X-Request-Id") == [theirs]


@pytest.mark.parametrize("theirs", ["", "a b", "x" * 129, "é", 'a"b', "a,b", None])
async def test_any_other_request_id_is_replaced(client: Client, upstream: Lookalike, theirs: str | None) -> None:
    """A new one is made, and no two requests share it."""
    fields = [] if theirs is None else [("X-Request-Id", theirs)]
    made = {(await client.ask(SCHEMA, fields=fields)).fields["X-Request-Id"] for _ in range(3)}
    assert len(made) == 3
    assert theirs not in made
    assert {call.headers["X-Request-Id"] for call in upstream.calls} == made


@pytest.mark.parametrize(("target", "status"), [("/", 300), ("/versions", 200)])
async def test_version_documents_lead_to_the_proxy(client: Client, target: str, status: int) -> None:
    """Every link stands on the name the caller used, and none on the upstream's."""
    answer = await client.ask(target, token=None)
    assert answer.status == status
    links = [link["href"] for version in answer.json()["versions"] for link in version["links"]]
    assert links
    assert all(link == f"{client.url}/v2/" for link in links)
    named = await client.ask(target, token=None, Host="ims.example:1234")
    assert named.json()["versions"][0]["links"][0]["href"] == "http://ims.example:1234/v2/"
    assert int(named.fields["Content-Length"]) == len(named.body)


async def test_version_documents_follow_the_public_url(upstream: Lookalike) -> None:
    """Where links are absolute, these are too."""
    server = {"links": "absolute", "public_url": "https://ims.example"}
    async with a_proxy(upstream.base_url, server=server) as proxy:
        answer = await proxy.client.ask("/", token=None, Host="evil.example")
        assert b"evil" not in answer.body
        assert answer.json()["versions"][0]["links"][0]["href"] == "https://ims.example/v2/"


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "POST", "PATCH", "DELETE", "PUT"])
async def test_every_method_is_carried_on(client: Client, upstream: Lookalike, method: str) -> None:
    """What it means is the upstream's business."""
    await client.ask(SCHEMA, method=method)
    assert [(call.method, call.target) for call in upstream.calls] == [(method, SCHEMA)]


async def test_a_delete_may_carry_a_body(client: Client, upstream: Lookalike, image_id: str) -> None:
    """The body goes up, and the answer is the upstream's."""
    answer = await client.ask(f"/v2/images/{image_id}", method="DELETE", body=b'{"delete_backup":true}')
    assert answer.status == 204
    assert upstream.calls[-1].headers["Content-Length"] == "22"


async def test_redirects_are_the_caller_s_to_follow(client: Client, upstream: Lookalike) -> None:
    """The proxy follows none."""

    async def script(_: Call) -> web.StreamResponse | None:
        return web.Response(status=307, headers={"Location": "http://elsewhere.example/"})

    upstream.script = script
    answer = await client.ask(SCHEMA)
    assert (answer.status, answer.fields["Location"]) == (307, "http://elsewhere.example/")
    assert len(upstream.calls) == 1


async def test_a_write_is_seen_by_the_next_list(proxy: Proxy, client: Client, image_id: str) -> None:
    """What was created, changed or deleted through the proxy is not answered from before it."""
    assert image_id in (await client.ask("/v2/images?limit=5")).ids
    assert (await client.ask("/v2/images?limit=5")).hit
    patch = b'[{"op":"replace","path":"/name","value":"renamed"}]'
    kind = "application/openstack-images-v2.1-json-patch"
    await client.ask(f"/v2/images/{image_id}", method="PATCH", body=patch, Content_Type=kind)
    names = {image["id"]: image["name"] for image in (await client.ask("/v2/images?limit=5")).json()["images"]}
    assert names[image_id] == "renamed"
    await client.ask(f"/v2/images/{image_id}", method="DELETE")
    assert image_id not in (await client.ask("/v2/images?limit=5")).ids


async def test_leaving_waits_for_what_is_running(upstream: Lookalike) -> None:
    """A proxy that stops finishes the request it is answering."""
    gate, arrived = asyncio.Event(), asyncio.Event()

    async def script(_: Call) -> None:
        arrived.set()
        await gate.wait()

    upstream.script = script
    context = running(settings_for(upstream.base_url))
    started = await context.__aenter__()
    client = Client(started.url)
    asking = asyncio.create_task(client.ask(SCHEMA))
    async with asyncio.timeout(15):
        await arrived.wait()
        leaving = asyncio.create_task(context.__aexit__(None, None, None))
        await asyncio.sleep(0)
        gate.set()
        assert (await asking).status == 200
        await client.close()
        await leaving
