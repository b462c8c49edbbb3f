"""Bodies on their way through: streamed both ways, never collected, never cut without a sign."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from proxy.demo.app import ImsLookalike, RecordedCall
from proxy.runtime.app import run_proxy
from tests.support.running import Client, Proxy, settings_for

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


async def test_an_upload_reaches_the_upstream_before_it_is_complete(client: Client, upstream: ImsLookalike) -> None:
    """Nothing is collected here first: the upstream's answer may come while the body is still being sent."""
    arrived, release = asyncio.Event(), asyncio.Event()

    async def script(_: RecordedCall) -> None:
        arrived.set()

    async def chunks() -> AsyncIterator[bytes]:
        yield b"first"
        await release.wait()
        yield b"last"

    upstream.response_hook = script
    asking = asyncio.create_task(client.ask("/v2/images/x/file", method="PUT", body=chunks()))
    async with asyncio.timeout(60):
        await arrived.wait()
        release.set()
        await asking


async def test_a_download_reaches_the_caller_before_it_is_complete(client: Client, upstream: ImsLookalike) -> None:
    """The first bytes come while the upstream still holds the last ones back."""
    release = asyncio.Event()

    async def script(call: RecordedCall) -> web.StreamResponse | None:
        assert call.transport is not None
        call.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
        await release.wait()
        call.transport.write(b"last.")
        call.transport.close()
        return web.Response()

    upstream.response_hook = script
    host, _, port = client.url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(b"GET /v2/images/x/file HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        async with asyncio.timeout(60):
            await reader.readuntil(b"first")
            release.set()
            assert await reader.read() == b"last."
    finally:
        writer.close()


async def test_a_download_that_breaks_off_breaks_off_here_too(client: Client, upstream: ImsLookalike) -> None:
    """A caller is never told that half an image is a whole one."""

    async def script(call: RecordedCall) -> web.StreamResponse | None:
        assert call.transport is not None
        call.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")
        await asyncio.sleep(0)
        call.transport.close()
        return None

    upstream.response_hook = script
    got = await client.raw(b"GET /v2/images/x/file HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert b"Content-Length: 1000" in got
    assert not got.endswith(b"0\r\n\r\n")
    assert len(got.partition(b"\r\n\r\n")[2]) < 1000


async def test_a_delete_may_carry_a_body(client: Client, upstream: ImsLookalike, image_id: str) -> None:
    """The body goes up, and the answer is the upstream's."""
    answer = await client.ask(f"/v2/images/{image_id}", method="DELETE", body=b'{"delete_backup":true}')
    assert answer.status == 204
    assert upstream.calls[-1].headers["Content-Length"] == "22"


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


async def test_leaving_waits_for_what_is_running(upstream: ImsLookalike) -> None:
    """A proxy that stops finishes the request it is answering."""
    gate, arrived = asyncio.Event(), asyncio.Event()

    async def script(_: RecordedCall) -> None:
        arrived.set()
        await gate.wait()

    upstream.response_hook = script
    context = run_proxy(settings_for(upstream.base_url))
    started = await context.__aenter__()
    client = Client(started.url)
    asking = asyncio.create_task(client.ask(SCHEMA))
    async with asyncio.timeout(60):
        await arrived.wait()
        leaving = asyncio.create_task(context.__aexit__(None, None, None))
        await asyncio.sleep(0)
        gate.set()
        assert (await asking).status == 200
        await client.close()
        await leaving
