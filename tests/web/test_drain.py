"""What a proxy that was told to stop does about connections that are open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import urlsplit

import pytest

from proxy.demo.server import Lookalike
from proxy.web.app import running
from tests.harness.waiting import until
from tests.web.conftest import a_client, settings_for

LIST = "/v2/images?limit=5"
ASKED = f"GET {LIST} HTTP/1.1\r\nHost: x\r\nX-Auth-Token: demo-token-alpha\r\n\r\n".encode()


@asynccontextmanager
async def stopping(stack: AsyncExitStack, admin_url: str) -> AsyncIterator[None]:
    """Stop the proxy in *stack*; it has said so to operators by the time the context begins."""
    ending = asyncio.create_task(stack.aclose())
    async with a_client(admin_url) as operator:

        async def told() -> bool:
            return (await operator.ask("/readyz", token=None)).status == 503

        await until(told)
        yield
    await ending


@pytest.mark.parametrize("before", [pytest.param(0, id="a new connection"), pytest.param(1, id="one that was used")])
async def test_a_request_that_was_on_its_way_is_answered(
    upstream: Lookalike, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    """It comes a moment after the order to stop; its answer says that it is the last, and ends the connection."""
    monkeypatch.setattr("proxy.web.app._QUIET_S", 30.0)
    stack = AsyncExitStack()
    proxy = await stack.enter_async_context(running(settings_for(upstream.base_url, server={"drain_s": 60})))
    async with asyncio.timeout(60):
        reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(proxy.url).port)
        for _ in range(before):
            writer.write(ASKED)
            length = int((await reader.readuntil(b"\r\n\r\n")).lower().partition(b"content-length: ")[2].split()[0])
            await reader.readexactly(length)
        async with a_client(proxy.url) as another:  # taken in behind the connection, which is so by then
            assert (await another.ask(LIST)).status == 200
        async with stopping(stack, proxy.admin_url):
            writer.write(ASKED)
            last = await reader.read()
        writer.close()
    head = last.partition(b"\r\n\r\n")[0].lower()
    assert head.startswith(b"http/1.1 200 ")
    assert b"\r\nconnection: close" in head


async def test_who_is_answered_meanwhile_sends_nothing_more(upstream: Lookalike) -> None:
    """The answer to a request that is under way says that the connection ends."""
    arrived, gate = asyncio.Event(), asyncio.Event()

    async def script(_: object) -> None:
        arrived.set()
        await gate.wait()

    upstream.script = script
    stack = AsyncExitStack()
    proxy = await stack.enter_async_context(running(settings_for(upstream.base_url, server={"drain_s": 60})))
    async with asyncio.timeout(60), a_client(proxy.url) as client:
        asking = asyncio.create_task(client.ask(LIST))
        await arrived.wait()
        async with stopping(stack, proxy.admin_url):
            gate.set()
            answer = await asking
    assert answer.status == 200
    assert answer.fields["Connection"] == "close"
