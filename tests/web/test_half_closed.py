"""Callers that end their own side of a connection behind a request, as `nc -N` does."""

from __future__ import annotations

import pytest

from proxy.server import half_closed
from tests.web.origin import End, Origin, a_caller

PASSING = b"GET /v2/tasks HTTP/1.%d\r\nHost: x\r\nX-Auth-Token: made-up\r\n\r\n"
KEPT = b"GET /v2/schemas/image HTTP/1.%d\r\nHost: x\r\nX-Auth-Token: made-up\r\n\r\n"
WRITE = b"POST /v2/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n"


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no answer come too late, however slow the machine is."""
    monkeypatch.setattr(half_closed, "ENDED_S", 600.0)


def ask(caller: End, request: bytes) -> None:
    """Send *request*, and the end."""
    caller.send(request)
    caller.writer.write_eof()


async def asked(origin: Origin) -> End:
    """Return a connection of the proxy's on which a request has come."""
    upstream = await origin.end()
    await upstream.head()
    return upstream


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("request_", [PASSING % 1, PASSING % 0, KEPT % 1, KEPT % 0, WRITE])
async def test_a_request_that_is_whole_is_answered(origin: Origin, url: str, request_: bytes) -> None:
    """Once, to its end, whether it passes through or not; then the connection ends."""
    async with a_caller(url) as caller:
        ask(caller, request_)
        upstream = await asked(origin)
        upstream.send(OK + b"{}")
        got = await caller.rest()
        assert got.startswith((b"HTTP/1.1 200 ", b"HTTP/1.0 200 "))
        assert got.endswith(b"\r\n\r\n{}")
        assert got.count(b"HTTP/1.") == 1


@pytest.mark.usefixtures("patient")
async def test_so_are_all_of_several(origin: Origin, url: str) -> None:
    """In order, with the beginning of one more behind them, which is none."""
    async with a_caller(url) as caller:
        ask(caller, WRITE * 3 + b"GET /v2/ta")
        upstream = await origin.end()
        for name in (b"aa", b"bb", b"cc"):
            await upstream.until(b"\r\n\r\nbody")
            upstream.send(OK + name)
        got = await caller.rest()
        assert [part[:2] for part in got.split(b"\r\n\r\n")[1:]] == [b"aa", b"bb", b"cc"]


@pytest.mark.usefixtures("patient")
async def test_so_is_what_can_t_be_understood(url: str) -> None:
    """With the refusal that it would get anyhow."""
    async with a_caller(url) as caller:
        ask(caller, b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        got = await caller.rest()
        assert got.split(b" ")[1] == b"400"
        assert got.count(b"HTTP/1.0") == 1


@pytest.mark.usefixtures("patient")
async def test_a_long_answer_comes_to_its_end(origin: Origin, url: str) -> None:
    """Also to a caller that takes it slowly."""
    async with a_caller(url) as caller:
        ask(caller, PASSING % 1)
        upstream = await asked(origin)
        upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8000000\r\n\r\n" + b"a" * 4_000_000)
        await caller.head()
        await caller.exactly(1_000_000)
        upstream.send(b"a" * 4_000_000)
        assert await caller.exactly(7_000_000) == b"a" * 7_000_000
        assert await caller.rest() == b""


@pytest.mark.parametrize("request_", [PASSING % 1, WRITE])
async def test_an_answer_that_does_not_begin_is_called_off(
    origin: Origin, url: str, monkeypatch: pytest.MonkeyPatch, request_: bytes
) -> None:
    """After a while it counts as one that nobody waits for: upstream the connection ends."""
    monkeypatch.setattr(half_closed, "ENDED_S", 0.05)
    async with a_caller(url) as caller:
        ask(caller, request_)
        upstream = await asked(origin)
        assert await upstream.rest() in (b"", b"body")
        assert await caller.rest() == b""


@pytest.mark.usefixtures("patient")
async def test_a_request_that_is_not_whole_is_called_off_at_once(origin: Origin, url: str) -> None:
    """Its caller can't end it any more."""
    async with a_caller(url) as caller:
        ask(caller, WRITE[:-1])
        assert await caller.rest() == b""


@pytest.mark.usefixtures("patient")
async def test_nothing_is_waited_for_where_nothing_was_asked(origin: Origin, url: str) -> None:
    """A connection whose requests were all answered ends with its caller's side, as does one without any."""
    async with a_caller(url) as caller:
        caller.send(PASSING % 1)
        (await asked(origin)).send(OK + b"{}")
        await caller.until(b"{}")
        caller.writer.write_eof()
        assert await caller.rest() == b""
    async with a_caller(url) as caller:
        caller.writer.write_eof()
        assert await caller.rest() == b""


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("request_", [PASSING % 1, WRITE])
async def test_a_caller_that_vanishes_is_seen_at_once(origin: Origin, url: str, request_: bytes) -> None:
    """One that resets its connection, before it has ended its side, waits for nothing."""
    async with a_caller(url) as caller:
        caller.send(request_)
        upstream = await asked(origin)
        caller.reset()
        assert await upstream.rest() in (b"", b"body")
