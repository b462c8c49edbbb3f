"""Whom a request is for: targets, hosts and methods that are odd are refused or made plain, and never believed."""

from __future__ import annotations

import pytest

from tests.support.recorder import Recorder
from tests.support.smuggling import LAST, answers, request


@pytest.mark.parametrize(
    "host",
    [
        pytest.param("", id="nothing"),
        pytest.param("user@x", id="a user"),
        pytest.param("user:secret@x", id="a user with a password"),
        pytest.param("x/path", id="a path"),
        pytest.param("x/", id="a slash"),
        pytest.param("x?a", id="a query"),
        pytest.param("x#a", id="a fragment"),
        pytest.param("x, y", id="a list"),
        pytest.param("x,y", id="a list without a space"),
        pytest.param("x y", id="a space"),
        pytest.param("x:a", id="a port that is no number"),
        pytest.param("x:", id="no port behind the colon"),
        pytest.param("x:99999", id="a port beyond the last"),
        pytest.param("x:80:80", id="two ports"),
        pytest.param(":80", id="a port alone"),
        pytest.param("http://x", id="a URL"),
        pytest.param("[::1", id="half an address"),
        pytest.param("x\\y", id="a backslash"),
        pytest.param("%78", id="an escape"),
        pytest.param("\xe9", id="a letter beyond ASCII"),
        pytest.param(None, id="none at all"),
        pytest.param("x\r\nHost: x", id="the same twice"),
        pytest.param("x\r\nHost: y", id="two"),
        pytest.param("x\r\nHost:", id="one and nothing"),
    ],
)
async def test_a_host_that_is_not_one_name_is_refused(url: str, upstream: Recorder, host: str | None) -> None:
    """400, as RFC 9112 §3.2 has it, and the upstream hears nothing."""
    got = await answers(url, request("GET /v2/images HTTP/1.1", host=host) + LAST)
    assert [each.status for each in got] == [400]
    got[0].assert_ours()
    assert (upstream.told, upstream.rest) == ([], b"")


@pytest.mark.parametrize("host", ["x", "X.Example", "x.example.", "ims_proxy:8080", "127.0.0.1:1", "[::1]:65535"])
async def test_the_upstream_s_host_is_the_upstream_s(url: str, upstream: Recorder, host: str) -> None:
    """Whatever name the caller used, the upstream is called by its own."""
    got = await answers(url, request("GET /a HTTP/1.1", host=host) + LAST)
    assert [each.status for each in got] == [200, 200]
    for message in upstream.messages:
        assert message.values("host") == [upstream.url.removeprefix("http://")]


async def test_http_1_0_needs_no_host(url: str, upstream: Recorder) -> None:
    """A request of HTTP/1.0 without one is answered, and goes up as HTTP/1.1 with the upstream's."""
    (got,) = await answers(url, request("GET /a HTTP/1.0", host=None))
    assert got.status == 200
    assert upstream.messages[0].line == "GET /a HTTP/1.1"


@pytest.mark.parametrize(
    ("line", "arrives"),
    [
        pytest.param("GET http://x/a?b HTTP/1.1", "GET /a?b", id="a path and a query"),
        pytest.param("GET HTTP://X/a HTTP/1.1", "GET /a", id="in capitals"),
        pytest.param("GET https://x/a HTTP/1.1", "GET /a", id="of another scheme"),
        pytest.param("GET http://x HTTP/1.1", "GET /", id="no path"),
        pytest.param("GET http://x?a HTTP/1.1", "GET /?a", id="a query without a path"),
        pytest.param("GET http://x//y/a HTTP/1.1", "GET //y/a", id="two slashes"),
        pytest.param("GET http://x/http://y/a HTTP/1.1", "GET /http://y/a", id="a URL in the path"),
        pytest.param("OPTIONS http://x/a HTTP/1.1", "OPTIONS /a", id="the options of a path"),
        pytest.param("GET //y/a HTTP/1.1", "GET //y/a", id="a path that begins like an authority"),
        pytest.param("GET /\\y/a HTTP/1.1", "GET /\\y/a", id="a backslash"),
        pytest.param("GET /a%2F..%2Fb%00%0d%0a?%zz HTTP/1.1", "GET /a%2F..%2Fb%00%0d%0a?%zz", id="escapes"),
        pytest.param("GET  /a HTTP/1.1", "GET /a", id="two spaces, made one"),
    ],
)
async def test_a_target_goes_up_as_a_path(url: str, upstream: Recorder, line: str, arrives: str) -> None:
    """An absolute one loses what `Host` says anyway, and of a path no byte is altered."""
    got = await answers(url, request(line) + LAST)
    assert [each.status for each in got] == [200, 200]
    assert upstream.told == [arrives, "GET /last"]
    assert upstream.rest == b""


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("GET http://y/a HTTP/1.1", id="another host"),
        pytest.param("GET http://x:80/a HTTP/1.1", id="another port"),
        pytest.param("GET http://user@x/a HTTP/1.1", id="a user"),
        pytest.param("GET http:///a HTTP/1.1", id="no host"),
        pytest.param("GET ftp://x/a HTTP/1.1", id="another protocol"),
        pytest.param("GET x:80 HTTP/1.1", id="an authority"),
        pytest.param("GET a HTTP/1.1", id="no slash"),
        pytest.param("GET ?a HTTP/1.1", id="a query alone"),
        pytest.param("GET * HTTP/1.1", id="a star"),
        pytest.param("GET /a#b HTTP/1.1", id="a fragment"),
        pytest.param("GET http://x/a#b HTTP/1.1", id="a fragment of a URL"),
        pytest.param("GET /a b HTTP/1.1", id="a space"),
        pytest.param("GET\t/a\tHTTP/1.1", id="tabs"),
        pytest.param("GET /\xe9 HTTP/1.1", id="a letter beyond ASCII"),
        pytest.param("GET /\x00 HTTP/1.1", id="NUL"),
        pytest.param("GET /a", id="no version, but fields"),
        pytest.param("GET /a HTTP/1.2", id="a version that is not"),
        pytest.param("GET /a HTTP/2.0", id="a version that is not spoken so"),
        pytest.param("GET /a HTTP/1.10", id="a version of two digits"),
        pytest.param("GET /a http/1.1", id="a version in small letters"),
        pytest.param("GET /a HTTP/1.1 ", id="a space behind"),
        pytest.param(" GET /a HTTP/1.1", id="a space before"),
        pytest.param("get /a HTTP/1.1", id="a method in small letters"),
        pytest.param("G=T /a HTTP/1.1", id="a method with an odd character"),
        pytest.param("GET: /a HTTP/1.1", id="a method with a colon"),
        pytest.param("\x00GET /a HTTP/1.1", id="a method with NUL"),
        pytest.param("FROBNICATE /a HTTP/1.1", id="a method that is unknown"),
        pytest.param("PRI * HTTP/2.0", id="the preface of HTTP/2"),
    ],
)
async def test_a_request_line_in_doubt_is_refused(url: str, upstream: Recorder, line: str) -> None:
    """400 in the gateway's shape; neither it nor what follows goes up."""
    got = await answers(url, request(line) + LAST)
    assert [each.status for each in got] == [400]
    got[0].assert_ours()
    assert (upstream.told, upstream.rest) == ([], b"")


async def test_a_request_of_the_first_version_is_refused(url: str, upstream: Recorder) -> None:
    """HTTP/0.9 has neither fields nor a status; it gets an answer of HTTP/1.0 all the same."""
    (got,) = await answers(url, b"GET /a\r\n\r\n")
    assert got.status == 400
    got.assert_ours()
    assert upstream.told == []


@pytest.mark.parametrize(
    "line",
    [
        "CONNECT x:443 HTTP/1.1",
        "CONNECT 169.254.169.254:80 HTTP/1.1",
        "CONNECT /a HTTP/1.1",
        "TRACE /v2/images HTTP/1.1",
    ],
)
async def test_tunnels_and_traces_are_not_made(url: str, upstream: Recorder, line: str) -> None:
    """501, the connection ends, and what was to go through the tunnel is not taken for a request."""
    got = await answers(url, request(line, "X-Auth-Token: a-secret") + LAST)
    assert [each.status for each in got] == [501]
    got[0].assert_ours()
    assert b"secret" not in got[0].body
    assert (upstream.told, upstream.rest) == ([], b"")


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(request("OPTIONS * HTTP/1.1"), id="a star"),
        pytest.param(request("OPTIONS http://x HTTP/1.1"), id="a URL without a path"),
        pytest.param(request("OPTIONS /v2/images HTTP/1.1", "Max-Forwards: 0"), id="no hop left"),
    ],
)
async def test_the_options_of_the_server_are_its_own(url: str, upstream: Recorder, sent: bytes) -> None:
    """The proxy is the server that was asked (RFC 9110 §9.3.7), so it answers, and the connection goes on."""
    options, last = await answers(url, sent + LAST)
    assert (options.status, options.body) == (200, b"")
    assert options.fields["allow"] == "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
    assert last.status == 200
    assert upstream.told == ["GET /last"]


@pytest.mark.parametrize(("hops", "left"), [(["5"], ["4"]), (["1"], ["0"]), ([], []), (["many"], ["many"])])
async def test_hops_are_counted(url: str, upstream: Recorder, hops: list[str], left: list[str]) -> None:
    """`Max-Forwards` of OPTIONS goes up less one; what is no number goes as it came."""
    await answers(url, request("OPTIONS /a HTTP/1.1", *(f"Max-Forwards: {each}" for each in hops)) + LAST)
    assert upstream.messages[0].values("max-forwards") == left
