"""Where a request ends: no two servers may differ about it."""

from __future__ import annotations

import pytest

from tests.support.recorder import Recorder
from tests.support.smuggling import LAST, answers, connected, request

CHUNKED = "Transfer-Encoding: chunked"
HELLO = b"5\r\nhello\r\n0\r\n\r\n"


def post(*lines: str, body: bytes = b"") -> bytes:
    return request("POST /a HTTP/1.1", *lines, body=body)


def chunks(body: bytes) -> bytes:
    return post(CHUNKED, body=body)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param(post("Content-Length: 5", CHUNKED, body=b"0\r\n\r\nG"), 400, id="length, then chunked"),
        pytest.param(post(CHUNKED, "Content-Length: 5", body=b"0\r\n\r\nG"), 400, id="chunked, then length"),
        pytest.param(post("Content-Length: 5", "Content-Length: 0", body=b"hello"), 400, id="two lengths"),
        pytest.param(post("Content-Length: 5", "Content-Length: 5", body=b"hello"), 400, id="one length twice"),
        pytest.param(post("Content-Length: 5, 5", body=b"hello"), 400, id="a list of lengths"),
        pytest.param(post("Content-Length: +5", body=b"hello"), 400, id="a signed length"),
        pytest.param(post("Content-Length: -5", body=b"hello"), 400, id="a negative length"),
        pytest.param(post("Content-Length: 0x5", body=b"hello"), 400, id="a length in hex"),
        pytest.param(post("Content-Length: 5_0", body=b"hello"), 400, id="a length with an underscore"),
        pytest.param(post("Content-Length: 5 5", body=b"hello"), 400, id="a length in two parts"),
        pytest.param(post("Content-Length:", body=b""), 400, id="an empty length"),
        pytest.param(post(f"Content-Length: {2**64 + 5}", body=b"hello"), 400, id="a length that wraps around"),
        pytest.param(post("Content-Length : 5", body=b"hello"), 400, id="a space before the colon"),
        pytest.param(post("Transfer-Encoding:", body=b"hello"), 400, id="no coding"),
        pytest.param(post("Transfer-Encoding:", "Content-Length: 5", body=b"hello"), 400, id="no coding, and a length"),
        pytest.param(post("Transfer-Encoding: identity", body=HELLO), 400, id="identity"),
        pytest.param(post("Transfer-Encoding: xchunked", body=HELLO), 400, id="nearly chunked"),
        pytest.param(post("Transfer-Encoding: \x0bchunked", body=HELLO), 400, id="chunked behind a control character"),
        pytest.param(post('Transfer-Encoding: "chunked"', body=HELLO), 400, id="chunked in quotes"),
        pytest.param(post("Transfer-Encoding: chunked;a=b", body=HELLO), 400, id="chunked with a parameter"),
        pytest.param(post("Transfer-Encoding: ,chunked", body=HELLO), 400, id="chunked behind an empty element"),
        pytest.param(post("Transfer-Encoding: chunked, identity", body=HELLO), 400, id="chunked is not the last"),
        pytest.param(post("Transfer-Encoding: chunked, chunked", body=HELLO), 400, id="chunked twice in a list"),
        pytest.param(post(CHUNKED, CHUNKED, body=HELLO), 400, id="chunked on two lines"),
        pytest.param(post(CHUNKED, "Transfer-Encoding: identity", body=HELLO), 400, id="chunked, then identity"),
        pytest.param(post("Transfer-Encoding: gzip, chunked", body=HELLO), 501, id="a coding nobody here undoes"),
        pytest.param(post("Transfer-Encoding : chunked", body=HELLO), 400, id="a space before the coding's colon"),
        pytest.param(post("Transfer-Encoding:\r\n chunked", body=HELLO), 400, id="a folded coding"),
        pytest.param(request("POST /a HTTP/1.0", CHUNKED, body=HELLO), 400, id="chunked in HTTP/1.0"),
    ],
)
async def test_a_length_in_doubt_is_refused(url: str, upstream: Recorder, sent: bytes, status: int) -> None:
    """The answer is an error of ours, the connection ends, and the upstream hears nothing of it nor of what follows."""
    got = await answers(url, sent + LAST)
    assert [each.status for each in got] == [status]
    got[0].assert_ours()
    assert (upstream.told, upstream.rest) == ([], b"")


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"zz\r\nhello\r\n0\r\n\r\n", id="no number"),
        pytest.param(b"\r\nhello\r\n0\r\n\r\n", id="nothing"),
        pytest.param(b"0x5\r\nhello\r\n0\r\n\r\n", id="a prefix"),
        pytest.param(b"-5\r\nhello\r\n0\r\n\r\n", id="a sign"),
        pytest.param(b" 5\r\nhello\r\n0\r\n\r\n", id="a space before"),
        pytest.param(b"5 \r\nhello\r\n0\r\n\r\n", id="a space behind"),
        pytest.param(b"10000000000000005\r\nhello\r\n0\r\n\r\n", id="a number that wraps around"),
        pytest.param(b"5\nhello\n0\n\n", id="bare line feeds"),
        pytest.param(b"5\r\nhello\n0\r\n\r\n", id="a bare line feed after the data"),
        pytest.param(b"5;a\nb\r\nhello\r\n0\r\n\r\n", id="a bare line feed in an extension"),
        pytest.param(b"5;a\rb\r\nhello\r\n0\r\n\r\n", id="a bare carriage return in an extension"),
        pytest.param(b"5\r\nhelloworld\r\n0\r\n\r\n", id="more data than it says"),
        pytest.param(b"5\r\nhello0\r\n\r\n", id="no line end after the data"),
        pytest.param(b"5\r\nhello\r\n0\r\nA B: c\r\n\r\n", id="a trailer that is no field"),
        pytest.param(b"5\r\nhello\r\n0\r\nContent-Length: 9\r\n\r\n", id="a length in the trailers"),
    ],
)
async def test_a_bad_chunk_is_refused(url: str, upstream: Recorder, body: bytes) -> None:
    """A size that is not plain hexadecimal, and data that is not as long as that: 400, and no message upstream."""
    got = await answers(url, chunks(body) + LAST)
    assert [each.status for each in got] == [400]
    assert (upstream.told, upstream.rest) == ([], b"")


async def test_a_chunk_that_turns_out_bad_breaks_off_what_went_up(url: str, upstream: Recorder) -> None:
    """What the upstream has begun to read never becomes a whole message, and the caller gets a 400."""
    async with connected(url) as line:
        line.writer.write(chunks(b"5\r\nhello\r\n"))
        await upstream.began.wait()
        got = await line.answer_to(b"zz\r\n" + LAST)
        assert await line.reader.read() == b""
        await upstream.all_ended()
    assert got.status == 400
    got.assert_ours()
    assert upstream.told == []
    assert b"/last" not in upstream.rest


async def test_broken_bodies_count_against_nobody_else(url: str, upstream: Recorder) -> None:
    """However many bodies break off half way, the upstream is not taken for one that fails."""
    for _ in range(20):
        upstream.began.clear()
        async with connected(url) as line:
            line.writer.write(chunks(b"5\r\nhello\r\n"))
            await upstream.began.wait()
            assert (await line.answer_to(b"zz\r\n")).status == 400
    (got,) = await answers(url, LAST)
    assert got.status == 200


@pytest.mark.parametrize(
    ("sent", "arrives"),
    [
        pytest.param(post("Content-Length: 5", body=b"hello"), "POST /a hello", id="a length"),
        pytest.param(post("Content-Length: \t 5 \t", body=b"hello"), "POST /a hello", id="with white space around it"),
        pytest.param(post("Content-Length: 0005", body=b"hello"), "POST /a hello", id="with zeros before it"),
        pytest.param(post("Content-Length: 0"), "POST /a", id="no body"),
        pytest.param(
            request("GET /a HTTP/1.1", "Content-Length: 5", body=b"hello"), "GET /a hello", id="a GET with a body"
        ),
        pytest.param(
            post("Transfer_Encoding: chunked", "Content-Length: 5", body=b"hello"), "POST /a hello", id="another name"
        ),
        pytest.param(
            post("Connection: Content-Length", "Content-Length: 5", body=b"hello"), "POST /a hello", id="a named length"
        ),
        pytest.param(
            post("Content-Length: 30", body=b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n12"),
            "POST /a GET /x HTTP/1.1\r\nHost: x\r\n\r\n12",
            id="a request in a body",
        ),
    ],
)
async def test_a_plain_length_goes_up_as_one_message(url: str, upstream: Recorder, sent: bytes, arrives: str) -> None:
    """The upstream gets one message with that body and one framing of it, and then the next request."""
    got = await answers(url, sent + LAST)
    assert [each.status for each in got] == [200, 200]
    assert upstream.told == [arrives, "GET /last"]
    for message in upstream.messages:
        assert len(message.values("content-length") + message.values("transfer-encoding")) <= 1
    assert upstream.rest == b""


@pytest.mark.parametrize(
    ("sent", "arrives"),
    [
        pytest.param(chunks(HELLO), "POST /a hello", id="one"),
        pytest.param(post("Transfer-Encoding: ChUnKeD", body=HELLO), "POST /a hello", id="chunked in any case"),
        pytest.param(chunks(b"2\r\nhe\r\n3\r\nllo\r\n000\r\n\r\n"), "POST /a hello", id="several"),
        pytest.param(chunks(b'5;a=b;c="d"\r\nhello\r\n0;e\r\n\r\n'), "POST /a hello", id="extensions"),
        pytest.param(chunks(b"5\r\nhello\r\n0\r\nX-Auth-Token: t\r\n\r\n"), "POST /a hello", id="a trailer"),
        pytest.param(request("GET /a HTTP/1.1", CHUNKED, body=HELLO), "GET /a hello", id="of a GET"),
        pytest.param(post("Connection: Transfer-Encoding", CHUNKED, body=HELLO), "POST /a hello", id="a named coding"),
    ],
)
async def test_chunks_go_up_as_one_message(url: str, upstream: Recorder, sent: bytes, arrives: str) -> None:
    """The upstream gets chunks of the proxy's making without trailers, and the connection ends.

    So nothing that stands in a trailer is ever taken for a field of the request behind it.
    """
    (got,) = await answers(url, sent + LAST)
    assert (got.status, got.fields["connection"]) == (200, "close")
    (message,) = upstream.messages
    assert str(message) == arrives
    assert message.values("transfer-encoding") == ["chunked"]
    assert message.values("content-length") == message.values("x-auth-token") == []
    assert upstream.rest == b""


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"GET /a HTTP/1.1\nHost: x\n\n", id="everywhere"),
        pytest.param(b"GET /a HTTP/1.1\nHost: x\r\n\r\n", id="behind the request line"),
        pytest.param(b"GET /a HTTP/1.1\r\nHost: x\nX-A: b\r\n\r\n", id="behind a field"),
        pytest.param(b"GET /a HTTP/1.1\r\nHost: x\r\n\n", id="at the end"),
        pytest.param(b"GET /a HTTP/1.1\r\nHost: x\r\nX-A: b\rX-C: d\r\n\r\n", id="a carriage return within a field"),
        pytest.param(b"GET /a HTTP/1.1\r\nHost: x\r\r\n\r\n", id="a carriage return too many"),
        pytest.param(b"GET /a HTTP/1.1\r\nHost: x\r\nX-A: b\r\n c\r\n\r\n", id="a folded field"),
        pytest.param(b"GET /a HTTP/1.1\r\n X-A: b\r\nHost: x\r\n\r\n", id="white space before the first field"),
        pytest.param(b"GET /a HTTP/1.1\r\nHost: x\r\nX-A\r\n\r\n", id="a field without a colon"),
        pytest.param(b"GET /a HTTP/1.1\r\nHost: x\r\n: b\r\n\r\n", id="a field without a name"),
        pytest.param(b"GET /a HTTP/1.1\r\nHost: x\r\nX A: b\r\n\r\n", id="a space in a name"),
        pytest.param(b"GET /a HTTP/1.1\r\nHost: x\r\nX-A : b\r\n\r\n", id="a space behind a name"),
        pytest.param(b"GET /a HTTP/1.1\r\nHost: x\r\nX(A): b\r\n\r\n", id="a bracket in a name"),
        pytest.param(b"GET /a HTTP/1.1\r\nHost: x\r\nX\0A: b\r\n\r\n", id="NUL in a name"),
        pytest.param(b"GET /a HTTP/1.1\r\nHost: x\r\n\xc3\xa9: b\r\n\r\n", id="a name beyond ASCII"),
        pytest.param(b"GET /a HTTP/1.1\r\nHost: x\r\nX-A: \0\r\n\r\n", id="NUL in a value"),
        pytest.param(b"GET /a HTTP/1.1\r\nHost: x\r\nX-A: \x1b\r\n\r\n", id="a control character in a value"),
        pytest.param(b"GET /a HTTP/1.1\r\nHost: x\r\nX-A: \x7f\r\n\r\n", id="DEL in a value"),
    ],
)
async def test_lines_end_in_one_way(url: str, upstream: Recorder, sent: bytes) -> None:
    """Bare line feeds and carriage returns, folds, and names that are none, are refused (RFC 9112 §2.2, §5)."""
    got = await answers(url, sent + LAST)
    assert [each.status for each in got] == [400]
    got[0].assert_ours()
    assert (upstream.told, upstream.rest) == ([], b"")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param(request("GET /a HTTP/1.1", "X-A: " + "a" * 70_000), 431, id="a long value"),
        pytest.param(request("GET /a HTTP/1.1", "a" * 70_000 + ": b"), 431, id="a long name"),
        pytest.param(request("GET /a HTTP/1.1", *(f"X-{n}: a" for n in range(200))), 431, id="many fields"),
        pytest.param(request(f"GET /{'a' * 40_000} HTTP/1.1"), 414, id="a long target"),
        pytest.param(request(f"GET {'a' * 40_000} HTTP/1.1"), 400, id="a long target that is none"),
    ],
)
async def test_what_is_too_long_says_so(url: str, upstream: Recorder, sent: bytes, status: int) -> None:
    """414 for a target, 431 for fields, and the rest of them is not read."""
    got = await answers(url, sent + LAST)
    assert [each.status for each in got] == [status]
    got[0].assert_ours()
    assert b"a" * 33 not in got[0].body  # longer than any run of it in a request id
    assert (upstream.told, upstream.rest) == ([], b"")


@pytest.mark.parametrize("size", [1, 30_000, 60_000])
async def test_what_is_long_enough_goes_up(url: str, upstream: Recorder, size: int) -> None:
    """A field of sixty kilobytes and a target of thirty arrive as they are."""
    target = f"/a?{'b' * min(size, 30_000)}"
    got = await answers(url, request(f"GET {target} HTTP/1.1", f"X-A: {'c' * size}") + LAST)
    assert [each.status for each in got] == [200, 200]
    assert upstream.told == [f"GET {target}", "GET /last"]
    assert upstream.messages[0].values("x-a") == ["c" * size]
