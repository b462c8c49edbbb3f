"""What a proxy that was told to stop does about connections that are open."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from proxy.demo.app import ImsLookalike
from proxy.runtime.app import run_proxy
from tests.support.commands import ON_FREE_PORTS, command
from tests.support.redis import RedisServer
from tests.support.running import a_client, settings_for
from tests.support.waiting import until

LIST = "/v2/images?limit=5"
ASKED = f"GET {LIST} HTTP/1.1\r\nHost: x\r\nX-Auth-Token: demo-token-alpha\r\n\r\n".encode()
NEVER_S = 3600.0  # a delay that only an order ends


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
    upstream: ImsLookalike, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    """It comes a moment after the order to stop; its answer says that it is the last, and ends the connection."""
    monkeypatch.setattr("proxy.runtime.app._MAX_IDLE_WAIT_S", 30.0)
    stack = AsyncExitStack()
    proxy = await stack.enter_async_context(run_proxy(settings_for(upstream.base_url, server={"drain_s": 60})))
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


async def test_who_is_answered_meanwhile_sends_nothing_more(upstream: ImsLookalike) -> None:
    """The answer to a request that is under way says that the connection ends."""
    arrived, gate = asyncio.Event(), asyncio.Event()

    async def script(_: object) -> None:
        arrived.set()
        await gate.wait()

    upstream.response_hook = script
    stack = AsyncExitStack()
    proxy = await stack.enter_async_context(run_proxy(settings_for(upstream.base_url, server={"drain_s": 60})))
    async with asyncio.timeout(60), a_client(proxy.url) as client:
        asking = asyncio.create_task(client.ask(LIST))
        await arrived.wait()
        async with stopping(stack, proxy.admin_url):
            gate.set()
            answer = await asking
    assert answer.status == 200
    assert answer.fields["Connection"] == "close"


class KeepAliveCaller:
    """One caller that keeps a connection to each replica, asks the ready ones in turn, and retries nothing."""

    def __init__(self, urls: list[str], ready: dict[str, bool]) -> None:
        self._urls = urls
        self._ready = ready
        self._streams: dict[str, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}
        self.asked = dict.fromkeys(urls, 0)

    async def ask_until(self, enough: asyncio.Event) -> None:
        """Ask until there is *enough*. Raises what a request failed with."""
        for turn in range(100_000):
            if enough.is_set():
                break
            ready = [url for url in self._urls if self._ready[url]]
            await self._ask(ready[turn % len(ready)])
        for _, writer in self._streams.values():
            writer.close()

    async def _ask(self, url: str) -> None:
        if url not in self._streams:
            self._streams[url] = await asyncio.open_connection("127.0.0.1", urlsplit(url).port)
        reader, writer = self._streams[url]
        writer.write(ASKED)
        status, fields = await read_answer(reader)
        assert status == 200
        if fields.get("connection") == "close":
            del self._streams[url]
            writer.close()
        self.asked[url] += 1


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """Read one answer to its end; return its status and its fields, by names in lower case."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
    await reader.readexactly(int(fields["content-length"]))
    return int(head[0].split()[1]), fields


async def test_during_the_delay_every_answer_closes_its_connection(upstream: ImsLookalike) -> None:
    """New connections are accepted, and a request that was answered from its bytes alone is told too."""
    stack, skip_delay = AsyncExitStack(), asyncio.Event()
    settings = settings_for(upstream.base_url, server={"drain_delay_s": NEVER_S, "drain_s": 60})
    proxy = await stack.enter_async_context(run_proxy(settings, skip_delay=skip_delay))
    port = urlsplit(proxy.url).port
    async with asyncio.timeout(60):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(3):
            writer.write(ASKED)
            assert "connection" not in (await read_answer(reader))[1]
        async with stopping(stack, proxy.admin_url):
            writer.write(ASKED)
            status, fields = await read_answer(reader)
            assert (status, fields["connection"]) == (200, "close")
            assert await reader.read() == b""
            for _ in range(3):
                async with a_client(proxy.url) as late:
                    answer = await late.ask(LIST)
                    assert (answer.status, answer.fields["Connection"]) == (200, "close")
            skip_delay.set()
        with pytest.raises(OSError, match="Connect call failed"):
            await asyncio.open_connection("127.0.0.1", port)
    writer.close()


async def test_an_idle_connection_is_answered_after_the_delay(
    upstream: ImsLookalike, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that arrives on it when the listener is closed already is not lost."""
    monkeypatch.setattr("proxy.runtime.app._MAX_IDLE_WAIT_S", 30.0)
    stack, skip_delay = AsyncExitStack(), asyncio.Event()
    settings = settings_for(upstream.base_url, server={"drain_delay_s": NEVER_S, "drain_s": 60})
    proxy = await stack.enter_async_context(run_proxy(settings, skip_delay=skip_delay))
    port = urlsplit(proxy.url).port
    async with asyncio.timeout(60):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(ASKED)
        await read_answer(reader)
        async with stopping(stack, proxy.admin_url):
            skip_delay.set()

            async def refused() -> bool:
                try:
                    (await asyncio.open_connection("127.0.0.1", port))[1].close()
                except OSError:
                    return True
                return False

            await until(refused)
            writer.write(ASKED)
            status, fields = await read_answer(reader)
            assert (status, fields["connection"]) == (200, "close")
    writer.close()


async def test_readiness_of_a_draining_proxy_does_not_wait_for_redis(upstream: ImsLookalike, tmp_path: Path) -> None:
    """A Redis that hangs holds up nobody who asks whether the proxy drains."""
    stack, skip_delay = AsyncExitStack(), asyncio.Event()
    with RedisServer(tmp_path) as redis:
        settings = settings_for(
            upstream.base_url,
            server={"drain_delay_s": NEVER_S},
            store={"url": redis.url, "timeout_ms": 60_000},
        )
        proxy = await stack.enter_async_context(run_proxy(settings, skip_delay=skip_delay))
        redis.pause()
        try:
            async with asyncio.timeout(30), stopping(stack, proxy.admin_url), a_client(proxy.admin_url) as operator:
                told = await operator.ask("/readyz", token=None)
                redis.resume()
                skip_delay.set()
        finally:
            redis.resume()
    assert told.status == 503
    assert told.json()["parts"]["listener"] == "not ready, draining"
    assert set(told.json()["parts"]) == {"listener", "store", "invalidation_bus"}


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("run", range(5))
async def test_callers_that_follow_readiness_lose_no_request(
    upstream: ImsLookalike, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: str, run: int
) -> None:
    """Sixteen keep-alive callers over two replicas, one told to stop: none is refused, reset or failed."""
    del run
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    words = ("serve", "--upstream", upstream.base_url, *ON_FREE_PORTS)
    with RedisServer(tmp_path) as redis:
        given = {"STORE__URL": redis.url, "SERVER__DRAIN_DELAY_S": str(NEVER_S), "SERVER__WORKERS": workers}
        async with (
            command(*words, at=tmp_path, **given) as stays,
            command(*words, at=tmp_path, **given) as stops,
            asyncio.timeout(120),
        ):
            (one, _), (other, operators) = await stays.listening(), await stops.listening()
            ready, enough = {one: True, other: True}, asyncio.Event()
            callers = [KeepAliveCaller([one, other], ready) for _ in range(16)]
            asking = asyncio.gather(*(caller.ask_until(enough) for caller in callers))

            async def ask_more(times: int) -> None:
                goal = [caller.asked[one] + times for caller in callers]

                async def reached() -> bool:
                    assert not asking.done(), asking.exception()
                    return all(caller.asked[one] >= least for caller, least in zip(callers, goal, strict=True))

                await until(reached)

            await ask_more(10)
            stops.child.send_signal(signal.SIGTERM)
            async with a_client(operators) as operator:

                async def draining() -> bool:
                    return (await operator.ask("/readyz", token=None)).status == 503

                await until(draining)
            await ask_more(3)  # callers have not noticed yet
            ready[other] = False
            await ask_more(3)  # the requests that were under way have been answered
            assert await stops.ended(by=signal.SIGTERM) == 0
            await ask_more(3)
            enough.set()
            await asking
            assert all(caller.asked[other] for caller in callers)
