"""What of a head is compared: held against the parser that requests go through otherwise."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser, RawRequestMessage
from hypothesis import given
from hypothesis import strategies as st

from proxy.gateway.relevant_headers import RELEVANT_FIELDS
from proxy.server.fast_path import extract_relevant_head, is_single_head

BEGIN = b"GET /v2/images?limit=3 HTTP/1.1\r\nHost: proxy.test\r\nX-Auth-Token: alpha\r\n"

names = st.sampled_from(
    [
        *sorted(RELEVANT_FIELDS),
        *("host", "connection", "content-length", "transfer-encoding", "te", "expect", "upgrade", "x-request-id"),
        *("user-agent", "x-trace", "x_auth_token", "x-auth-token ", " x-auth-token", "x-auth\ttoken", "", "é"),
    ]
).flatmap(lambda name: st.sampled_from([name, name.title(), name.upper()]))
values = st.one_of(
    st.sampled_from(
        ["", "0", "1", "keep-alive", "close", "chunked", "Bearer k", "a\r\n b", "a\nx-auth-token: b", "a\rb"]
    ),
    st.text(st.characters(max_codepoint=255), max_size=8),
)
lines = st.builds(
    lambda name, colon, value: f"{name}{colon}{value}".encode("latin-1"),
    names,
    st.sampled_from([":", ": ", ":\t", " : ", ""]),
    values,
)
firsts = st.sampled_from([b"GET /v2/images HTTP/1.1", b"HEAD /v2/images?a=b HTTP/1.1", b"GET / HTTP/1.0", b"GET  /"])
ends = st.sampled_from([b"\r\n\r\n"] * 4 + [b"\r\n", b"\n\n", b"\r\n\r\nGET / HTTP/1.1\r\n\r\n"])


def parsed(head: bytes) -> RawRequestMessage | None:
    """Return the one message that aiohttp finds in *head*, None where there is none, or another number of them."""
    loop = asyncio.new_event_loop()
    try:
        parser = HttpRequestParser(BaseProtocol(loop), loop, 2**16, max_line_size=2**16, max_field_size=2**16)
        messages, _, _ = parser.feed_data(head)
    except (HttpProcessingError, ValueError):
        return None
    finally:
        loop.close()
    return messages[0][0] if len(messages) == 1 else None


def deciding(message: RawRequestMessage) -> list[tuple[bytes, bytes]]:
    """Return the fields of *message* that count."""
    return [
        (name.lower(), value)
        for name, value in message.raw_headers
        if name.decode("latin-1").lower() in {*RELEVANT_FIELDS, "host"}
    ]


@given(firsts, st.lists(lines, max_size=4), st.data(), ends)
def test_alike(first: bytes, some: list[bytes], data: st.DataObject, end: bytes) -> None:
    """Of two heads that compare equal, the parser takes both or neither, and finds the same in them where it counts."""
    more = data.draw(st.lists(lines, max_size=3))
    other = list(some)
    for line in more:
        other.insert(data.draw(st.integers(0, len(other))), line)
    one, two = (b"\r\n".join([first, *each]) + end for each in (some, other))
    told, told_of_other = extract_relevant_head(one), extract_relevant_head(two)
    if told is None or told_of_other is None or told[0] != told_of_other[0]:
        return
    ours, theirs = parsed(one), parsed(two)
    assert (ours is None) == (theirs is None)
    if ours is None or theirs is None:
        return
    assert deciding(ours) == deciding(theirs)
    for name in ("method", "path", "version", "should_close", "compression", "upgrade", "chunked"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert is_single_head(one)
    assert is_single_head(two)


@given(st.lists(lines, max_size=5))
def test_every_field_that_counts(some: list[bytes]) -> None:
    """Whatever the parser finds of the fields that count stands in what is compared, in the same order."""
    head = b"\r\n".join([b"GET /v2/images HTTP/1.1", *some]) + b"\r\n\r\n"
    told, message = extract_relevant_head(head), parsed(head)
    if told is None or message is None:
        return
    kept = [line.partition(b":") for line in told[0].split(b"\r\n")[1:]]
    assert [(name.lower(), value.strip(b" \t")) for name, _, value in kept] == deciding(message)


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"User-Agent: agent/1.0 (x; y)", id="a field that decides nothing"),
        pytest.param(b"user-agent:", id="without a value"),
        pytest.param(b"Connection: Keep-Alive", id="a connection that is kept anyway"),
    ],
)
def test_left_out(line: bytes) -> None:
    """What can't change an answer is left out."""
    assert extract_relevant_head(BEGIN + line + b"\r\n\r\n") == extract_relevant_head(BEGIN + b"\r\n")


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"Content-Length: 0", id="length"),
        pytest.param(b"transfer-encoding: chunked", id="coding"),
        pytest.param(b"TE: trailers", id="accepted codings"),
        pytest.param(b"EXPECT: 100-continue", id="expectation"),
        pytest.param(b"Upgrade: h2c", id="another protocol"),
        pytest.param(b"Connection: close", id="last request"),
        pytest.param(b"Connection: keep-alive, x-auth-token", id="names a field"),
        pytest.param(b"Authorization: SDK-HMAC-SHA256 Access=a, SignedHeaders=b, Signature=c", id="signature"),
        pytest.param(b"X-Request-Id: not sane", id="id that is not echoed"),
        pytest.param(b"X-Request-Id: a\r\nX-Request-Id: b", id="two ids"),
        pytest.param(b"X-A: 1\r\n folded", id="folded"),
        pytest.param(b"X-A: 1\nX-Auth-Token: beta", id="bare LF"),
        pytest.param(b"X-A: 1\rX-Auth-Token: beta", id="bare CR"),
        pytest.param(b"X-Auth-Token : beta", id="blank before the colon"),
        pytest.param(b"X-A\x00: 1", id="no token"),
        pytest.param(b"X-A: \xff", id="old bytes"),
        pytest.param(b"no colon", id="no field"),
        pytest.param(b"", id="two heads"),
    ],
)
def test_not_plain(line: bytes) -> None:
    """What is not plain is for the parser."""
    assert extract_relevant_head(BEGIN + line + b"\r\n\r\n") is None


def test_bounds() -> None:
    """A head that the parser would find too long, in bytes or in lines, is left to it."""
    assert extract_relevant_head(BEGIN + b"X-A: " + bytes(65536).replace(b"\0", b"a") + b"\r\n\r\n") is None
    assert extract_relevant_head(BEGIN + b"X-A: 1\r\n" * 120 + b"\r\n") is None


def test_bearer() -> None:
    """A key in `Authorization: Bearer` counts."""
    told = extract_relevant_head(BEGIN + b"Authorization: Bearer one\r\n\r\n")
    assert told is not None
    assert b"Bearer one" in told[0]
