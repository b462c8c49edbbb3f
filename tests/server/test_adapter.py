"""The heads of finished answers."""

from __future__ import annotations

import pytest
from aiohttp import HttpVersion, HttpVersion10, HttpVersion11

from proxy.core.messages import Fields, Response
from proxy.server.adapter import render_head

NOW = 1_767_225_600.5


def lines(response: Response, *, version: HttpVersion = HttpVersion11, keep_alive: bool = True) -> list[bytes]:
    """Return the lines of the head of *response*."""
    head = render_head(response, version=version, keep_alive=keep_alive, cache_status="ims-proxy; hit", now=NOW)
    return head.split(b"\r\n")


def test_whole() -> None:
    """Fields stand in their order, ours behind them, the request id's value is left for the end."""
    assert lines(Response(200, Fields([("ETag", '"a"'), ("Vary", "X")]), b"body")) == [
        b"HTTP/1.1 200 OK",
        b'ETag: "a"',
        b"Vary: X",
        b"Date: Thu, 01 Jan 2026 00:00:00 GMT",
        b"Content-Length: 4",
        b"Cache-Status: ims-proxy; hit",
        b"X-Request-Id: ",
    ]


def test_fields_of_ours() -> None:
    """What the upstream said of length, connection, id and cache is not repeated; its date and its reason are."""
    theirs = [("content-length", "9"), ("Connection", "x"), ("X-Request-ID", "a"), ("Cache-Status", "b"), ("Date", "c")]
    assert lines(Response(404, Fields(theirs), b"", "Gone fishing")) == [
        b"HTTP/1.1 404 Gone fishing",
        b"Date: c",
        b"Content-Length: 0",
        b"Cache-Status: ims-proxy; hit",
        b"X-Request-Id: ",
    ]


@pytest.mark.parametrize("status", [204, 304])
def test_no_body(status: int) -> None:
    """A status that has no body has no length either."""
    assert not any(line.startswith(b"Content-Length") for line in lines(Response(status)))


@pytest.mark.parametrize(
    ("version", "keep_alive", "said"),
    [
        pytest.param(HttpVersion11, True, [], id="1.1 stays open"),
        pytest.param(HttpVersion11, False, [b"Connection: close"], id="1.1 is closed"),
        pytest.param(HttpVersion10, True, [b"Connection: keep-alive"], id="1.0 stays open"),
        pytest.param(HttpVersion10, False, [b"Connection: close"], id="1.0 is closed"),
    ],
)
def test_connection(version: HttpVersion, keep_alive: bool, said: list[bytes]) -> None:
    """Whether the connection stays open is said where it is not what the version means by itself."""
    told = lines(Response(200), version=version, keep_alive=keep_alive)
    assert [line for line in told if line.startswith(b"Connection")] == said
    assert told[0].startswith(b"HTTP/%d.%d 200" % (version.major, version.minor))


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: b", "a\nb", "a\rb"])
def test_line_break(value: str) -> None:
    """A field with a line break in it is an error, not two fields."""
    with pytest.raises(ValueError, match="line break"):
        lines(Response(200, Fields([("X", value)])))


def test_bytes_beyond_ascii() -> None:
    """Bytes that are no UTF-8 go out as they came."""
    value = b"caf\xe9 \xc3\xa9".decode("utf-8", "surrogateescape")
    assert b"X: caf\xe9 \xc3\xa9" in lines(Response(200, Fields([("X", value)])))


def test_status_without_a_name() -> None:
    """A status that no standard names has no reason."""
    assert lines(Response(599))[0] == b"HTTP/1.1 599 "
