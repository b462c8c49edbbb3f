"""Everything that is not a list goes through unaltered, but for what a proxy must alter."""

from __future__ import annotations

import pytest
from aiohttp import web

from proxy.demo.app import ImsLookalike, RecordedCall
from tests.support.running import ALPHA, Client, a_proxy

SCHEMA = "/v2/schemas/image"
FORWARDED = "/v2/images/x/members"  # what is never stored


async def test_hop_by_hop_fields_end_here(client: Client, upstream: ImsLookalike) -> None:
    """Neither those of the standard nor those that `Connection` names cross, in either direction."""

    async def script(_: RecordedCall) -> web.StreamResponse:
        return web.Response(
            body=b"{}", headers={"Connection": "X-Up", "X-Up": "1", "Keep-Alive": "timeout=9", "X-Kept": "2"}
        )

    upstream.response_hook = script
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


async def test_fields_cross_unaltered(client: Client, upstream: ImsLookalike) -> None:
    """Order, repetitions and UTF-8 of what may cross stay, both ways, and so does the reason."""

    async def script(call: RecordedCall) -> web.StreamResponse | None:
        assert call.transport is not None
        call.transport.write(
            b"HTTP/1.1 299 Fine Indeed\r\nX-Two: b\r\nX-Two: a\r\nX-Utf: \xc3\xa9\r\nContent-Length: 2\r\n\r\nok"
        )
        return web.Response()

    upstream.response_hook = script
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


async def test_targets_cross_unaltered(client: Client, upstream: ImsLookalike) -> None:
    """The upstream gets the path and query byte for byte."""
    for target in ("/v2/images/a%2Fb?x=%7e&&y", "/v2/../v2/images", "/v2/images/..%2f", "/%00?;=", "/a?b?c", "//x//"):
        await client.ask(target)
        assert upstream.calls[-1].target == target


@pytest.mark.parametrize("size", [1_000, 30_000, 60 * 1024])
async def test_long_fields_cross(client: Client, upstream: ImsLookalike, size: int) -> None:
    """Tokens of tens of kilobytes reach the upstream, and such fields come back."""

    async def script(_: RecordedCall) -> web.StreamResponse | None:
        return web.Response(body=b"{}", headers={"X-Long": "b" * size})

    upstream.response_hook = script
    answer = await client.ask(SCHEMA, token="a" * size)
    assert upstream.calls[0].headers["X-Auth-Token"] == "a" * size
    assert answer.fields["X-Long"] == "b" * size


async def test_a_long_token_has_lists_of_its_own(client: Client, upstream: ImsLookalike) -> None:
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
async def test_a_sane_request_id_is_kept(client: Client, upstream: ImsLookalike, target: str, theirs: str) -> None:
    """The upstream sees it, and so does the answer."""
    answer = await client.ask(target, X_Request_Id=theirs)
    assert answer.fields["X-Request-Id"] == theirs
    assert upstream.calls[0].headers.getall("X-Request-Id") == [theirs]


@pytest.mark.parametrize("theirs", ["", "a b", "x" * 129, "é", 'a"b', "a,b", None])
async def test_any_other_request_id_is_replaced(client: Client, upstream: ImsLookalike, theirs: str | None) -> None:
    """A new one is made, and no two requests share it."""
    fields = [] if theirs is None else [("X-Request-Id", theirs)]
    made = {(await client.ask(FORWARDED, fields=fields)).fields["X-Request-Id"] for _ in range(3)}
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


async def test_version_documents_follow_the_public_url(upstream: ImsLookalike) -> None:
    """Where links are absolute, these are too."""
    server = {"links": "absolute", "public_url": "https://ims.example"}
    async with a_proxy(upstream.base_url, server=server) as proxy:
        answer = await proxy.client.ask("/", token=None, Host="evil.example")
        assert b"evil" not in answer.body
        assert answer.json()["versions"][0]["links"][0]["href"] == "https://ims.example/v2/"


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "POST", "PATCH", "DELETE", "PUT"])
async def test_every_method_is_carried_on(client: Client, upstream: ImsLookalike, method: str) -> None:
    """What it means is the upstream's business."""
    await client.ask(FORWARDED, method=method)
    assert [(call.method, call.target) for call in upstream.calls] == [(method, FORWARDED)]


async def test_redirects_are_the_caller_s_to_follow(client: Client, upstream: ImsLookalike) -> None:
    """The proxy follows none."""

    async def script(_: RecordedCall) -> web.StreamResponse | None:
        return web.Response(status=307, headers={"Location": "http://elsewhere.example/"})

    upstream.response_hook = script
    answer = await client.ask(SCHEMA)
    assert (answer.status, answer.fields["Location"]) == (307, "http://elsewhere.example/")
    assert len(upstream.calls) == 1
