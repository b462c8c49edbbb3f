"""Several requests on one connection: each is answered in its turn, and no byte of one is taken for another's."""

from __future__ import annotations

import pytest

from tests.support.recorder import Recorder
from tests.support.smuggling import LAST, answers, connected, request

GET = request("GET /a HTTP/1.1")


async def test_pipelined_requests_are_answered_in_order(url: str, upstream: Recorder) -> None:
    """A hundred in one packet, with and without bodies, make a hundred messages and as many answers."""
    sent = b""
    for n in range(0, 100, 2):
        sent += request(f"GET /{n} HTTP/1.1")
        sent += request(f"POST /{n + 1} HTTP/1.1", f"Content-Length: {n + 1}", body=b"b" * (n + 1))
    got = await answers(url, sent + LAST)
    assert [each.status for each in got] == [200] * 101
    expected = [f"POST /{n} {'b' * n}" if n % 2 else f"GET /{n}" for n in range(100)]
    assert upstream.told == [*expected, "GET /last"]
    assert upstream.rest == b""


async def test_a_bad_request_ends_those_before_it_too_or_comes_after_them(url: str, upstream: Recorder) -> None:
    """Behind whatever was answered comes one 400 and nothing more; the upstream saw whole messages only."""
    got = await answers(url, GET + b"BAD\r\n\r\n" + LAST)
    statuses = [each.status for each in got]
    assert statuses in ([400], [200, 400])
    assert upstream.told == ["GET /a"] * statuses.count(200)
    assert upstream.rest == b""


@pytest.mark.parametrize(
    "behind",
    [
        pytest.param(LAST, id="another request"),
        pytest.param(b"\x00\x01", id="noise"),
        pytest.param(b"GET /half", id="half a request"),
    ],
)
async def test_what_follows_the_last_request_goes_nowhere(url: str, upstream: Recorder, behind: bytes) -> None:
    """After `Connection: close` nothing more is carried on, whatever it is."""
    got = await answers(url, request("GET /a HTTP/1.1", "Connection: close") + behind)
    assert [each.status for each in got] in ([200], [400])
    assert upstream.told in (["GET /a"], [])
    assert upstream.rest == b""


async def test_a_body_longer_than_it_says_is_not_carried_on(url: str, upstream: Recorder) -> None:
    """What is left over is no request, and none is made of it."""
    sent = request("POST /a HTTP/1.1", "Content-Length: 3", body=b"hello")
    got = await answers(url, sent + LAST)
    assert [each.status for each in got] in ([400], [200, 400])
    assert "GET /last" not in upstream.told
    assert upstream.rest == b""


async def test_a_body_shorter_than_it_says_takes_what_follows(url: str, upstream: Recorder) -> None:
    """The next request is its body, here as upstream: both count alike."""
    got = await answers(
        url, request("POST /a HTTP/1.1", f"Content-Length: {len(LAST) + 5}", body=b"hello") + LAST + LAST
    )
    assert [each.status for each in got] == [200, 200]
    assert upstream.told == [f"POST /a hello{LAST.decode()}".rstrip(), "GET /last"]


@pytest.mark.parametrize("lines", [b"\r\n", b"\r\n\r\n", b"\n"])
async def test_empty_lines_before_a_request_are_passed_over(url: str, upstream: Recorder, lines: bytes) -> None:
    """Old clients send some after a body (RFC 9112 §2.2); they don't go up."""
    got = await answers(url, lines + GET + lines + LAST)
    assert [each.status for each in got] == [200, 200]
    assert upstream.told == ["GET /a", "GET /last"]
    assert upstream.rest == b""


@pytest.mark.parametrize("protocol", ["websocket", "h2c", "TLS/1.0"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_upgrade_is_not_made(url: str, upstream: Recorder, method: str, protocol: str) -> None:
    """The request is answered as HTTP/1.1, neither field goes up, and what came behind it is not read in part."""
    upgrade = ("Connection: Upgrade, HTTP2-Settings", f"Upgrade: {protocol}", "HTTP2-Settings: AAMAAABk")
    body = ("Content-Length: 5",) if method == "POST" else ()
    sent = request(f"{method} /a HTTP/1.1", *upgrade, *body, body=b"hello" if body else b"")
    got = await answers(url, sent + GET + LAST)
    assert [each.status for each in got] == [200]
    assert got[0].fields["connection"] == "close"
    (message,) = upstream.messages
    assert str(message) == ("POST /a hello" if body else "GET /a")
    assert not any(message.values(name) for name in ("connection", "upgrade", "http2-settings"))


async def test_an_upgrade_that_comes_alone_costs_no_connection(url: str, upstream: Recorder) -> None:
    """Clients of Java ask for HTTP/2 first of all, and go on with what they get."""
    sent = request("GET /a HTTP/1.1", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMA")
    async with connected(url) as line:
        first = await line.answer_to(sent)
        second = await line.answer_to(GET)
    assert [first.status, second.status] == [200, 200]
    assert "connection" not in first.fields
    assert upstream.told == ["GET /a", "GET /a"]
