"""Answers that are no lists: they reach the caller as they came, and stay nowhere."""

from __future__ import annotations

import asyncio

import orjson
import pytest
from aiohttp import web

from proxy.demo.app import ImsLookalike, RecordedCall
from tests.support.running import ALPHA, BETA, Client, Proxy, a_proxy

LIST = "/v2/images?limit=5"
DEEP = 2_000_000  # more than any stack holds, which is what bounds nesting since Python 3.14


def saying(upstream: ImsLookalike, *answers: web.Response) -> None:
    """Let *upstream* give *answers* first."""
    left = list(answers)

    async def script(_: RecordedCall) -> web.StreamResponse | None:
        return left.pop(0) if left else None

    upstream.response_hook = script


@pytest.mark.parametrize("status", [401, 403, 404, 400, 409, 494, 500, 502, 503])
async def test_an_upstream_error_passes_through_unchanged(client: Client, upstream: ImsLookalike, status: int) -> None:
    """Status, reason, fields and bytes are the upstream's, once it has been tried as often as it will be."""
    body = b'{"error":{"message":"as it came \\u00e9","code":"IMG.0001"} }'
    fields = {"Content-Type": "application/json;x=y", "X-Own": "1", "Retry-After": "7", "X-Request-Id": "theirs"}
    said = (web.Response(status=status, reason="As It Came", body=body, headers=fields) for _ in range(3))
    saying(upstream, *said)
    answer = await client.ask(LIST)
    assert (answer.status, answer.reason, answer.body) == (status, "As It Came", body)
    assert answer.fields["X-Own"] == "1"
    assert answer.fields["Retry-After"] == "7"
    assert answer.fields["Content-Type"] == "application/json;x=y"
    assert f"fwd-status={status}" in answer.cache_status
    assert "stored" not in answer.cache_status
    assert "Age" not in answer.fields


@pytest.mark.parametrize("status", [401, 403, 500, 503])
async def test_such_an_error_is_never_remembered(client: Client, upstream: ImsLookalike, status: int) -> None:
    """The next request asks again, and what it gets is stored."""
    saying(upstream, *(web.Response(status=status) for _ in range(3 if status == 503 else 1)))
    assert (await client.ask(LIST)).status == status
    assert (await client.ask(LIST)).status == 200
    assert (await client.ask(LIST)).hit


async def test_one_caller_s_refusal_reaches_no_other(client: Client) -> None:
    """Unknown and known tokens, cold and warm."""
    for _ in range(2):
        assert (await client.ask(LIST, token="unknown")).status == 401
        assert (await client.ask(LIST, token=ALPHA)).status == 200
        assert (await client.ask(LIST, token=BETA)).status == 200


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param({"body": b"<html>", "content_type": "text/html"}, id="a page"),
        pytest.param({"body": b'{"images": 7}'}, id="images of another kind"),
        pytest.param({"body": b'{"images":[{"id":"a","x":' + b"[" * DEEP + b"]" * DEEP + b"}]}"}, id="nested too deep"),
        pytest.param({"body": b""}, id="nothing"),
        pytest.param({"body": b'\xef\xbb\xbf{"images":[]}'}, id="with a byte-order mark"),
    ],
)
async def test_a_200_that_is_no_list_passes_through(
    client: Client, upstream: ImsLookalike, answer: dict[str, bytes | str]
) -> None:
    """It is given as it came and not stored."""
    saying(upstream, web.Response(status=200, **answer))  # type: ignore[arg-type]
    got = await client.ask(LIST)
    assert (got.status, got.body) == (200, answer["body"])
    assert "stored" not in got.cache_status
    assert len((await client.ask(LIST)).ids) == 5


@pytest.mark.parametrize(
    "link",
    [
        "https://evil.example/v2/images?limit=5&marker={}",
        "//evil.example/v2/images?marker={}",
        "javascript:alert(1)?marker={}",
        "/elsewhere\r\nX-Evil: evil?marker={}",
    ],
)
async def test_foreign_links_of_the_upstream_reach_nobody(client: Client, upstream: ImsLookalike, link: str) -> None:
    """Of its next only the marker counts, and links of images are made the API's own."""
    images = [
        {"id": "a", "self": "https://evil.example/a", "file": "//evil.example/f", "schema": "javascript:evil"},
        {"id": "b", "self": "/v2/images/b"},
    ]
    page = {"images": images, "next": link.format("b"), "first": "https://evil.example", "schema": "//evil.example"}
    saying(upstream, web.Response(body=orjson.dumps(page)))
    for _ in range(2):
        answer = await client.ask("/v2/images?limit=2")
        assert b"evil" not in answer.body
        assert answer.json()["next"] == "/v2/images?limit=2&marker=b"
        assert answer.json()["images"][0] == {
            "id": "a",
            "self": "/v2/images/a",
            "file": "/v2/images/a/file",
            "schema": "/v2/schemas/image",
        }


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("/v2/images?limit=1;marker=x", "semicolon"),
        ("/v2/images?limit=1&limit=2", "two-limits"),
        ("/v2/images?limit=", "limit"),
        ("/v2/images?limit=%2B1", "limit"),
        ("/v2/images?name=%FF", "not-utf-8"),
        ("/v2/images?name=a%00b", "control-character"),
        ("/v2/images?marker=a&marker=b", "two-markers"),
        ("/v2/images?name", "no-value"),
        ("//v2/images", "other-path"),
        ("/v2/%69mages", "other-path"),
        ("/v2/images;x", "other-path"),
        ("/v2/images/", "other-path"),
    ],
)
async def test_what_is_unclear_goes_through_as_it_came(
    client: Client, direct: Client, upstream: ImsLookalike, target: str, reason: str
) -> None:
    """The upstream sees the raw target, its answer is the caller's, and the reason is told."""
    expected = await direct.ask(target)
    for _ in range(2):
        upstream.clear_recorded_calls()
        answer = await client.ask(target)
        assert [call.target for call in upstream.calls] == [target]
        assert answer.status == expected.status
        assert answer.cache_status.startswith(f"ims-proxy; fwd=bypass; fwd-status={expected.status}")
        if answer.status != 404:
            assert answer.cache_status.endswith(f"detail={reason}")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ([("X-Auth-Token", ALPHA), ("Authorization", "SDK-HMAC-SHA256 Access=x")], "two-credentials"),
        ([("Authorization", "SDK-HMAC-SHA256 Access=x, SignedHeaders=host, Signature=y")], "signed"),
        ([("X-Auth-Token", ALPHA), ("X-Auth-Token", BETA)], "two-tokens"),
        ([], "no-token"),
        ([("X-Auth-Token", ALPHA), ("If-Match", '"x"')], "precondition"),
        ([("X-Auth-Token", ALPHA), ("Cache-Control", "no-store")], "no-store"),
    ],
)
async def test_who_can_not_be_told_apart_is_not_answered_from_the_store(
    client: Client, upstream: ImsLookalike, fields: list[tuple[str, str]], reason: str
) -> None:
    """However warm the store, such a request goes through with its own fields."""
    await client.ask(LIST)
    upstream.clear_recorded_calls()
    answer = await client.ask(LIST, token=None, fields=fields)
    assert answer.cache_status.endswith(f"detail={reason}")
    (call,) = upstream.calls
    for name, value in fields:
        assert value in call.headers.getall(name)


async def test_a_body_on_a_list_request_goes_through(client: Client, upstream: ImsLookalike) -> None:
    """A GET with a body is the upstream's to understand."""
    await client.ask(LIST)
    answer = await client.ask(LIST, body=b"x")
    assert answer.cache_status.endswith("detail=body")
    assert len(upstream.calls) == 2


async def test_an_upstream_that_is_away_is_told_in_the_gateway_s_words() -> None:
    """502 with a code and the request's id, and nothing of addresses or headers."""
    async with a_proxy("http://127.0.0.1:1") as proxy:
        for target in (LIST, "/v2/schemas/image", "/"):
            answer = await proxy.client.ask(target, X_Request_Id="my-id")
            assert answer.status == 502
            told = answer.json()
            assert set(told) == {"error_code", "error_msg", "request_id"}
            assert (told["error_code"], told["request_id"]) == ("PROXY.0502", "my-id")
            assert ALPHA.encode() not in answer.body


async def test_an_error_of_our_own_is_told_as_text_to_who_asks_for_it() -> None:
    """Plain text for who likes it better than JSON; never a page, whatever is asked for."""
    async with a_proxy("http://127.0.0.1:1") as proxy:
        text = await proxy.client.ask(LIST, Accept="text/plain", X_Request_Id="my-id")
        assert text.fields["Content-Type"] == "text/plain; charset=UTF-8"
        assert text.body.startswith(b"PROXY.0502: 127.0.0.1: no connection, Connection refused (")
        assert text.body.endswith(b"(request my-id)\n")
        page = await proxy.client.ask(LIST, Accept="text/html, */*;q=0.1")
        assert page.json()["error_code"] == "PROXY.0502"


@pytest.mark.parametrize("target", [LIST, "/v2/schemas/image"])
async def test_an_upstream_that_hangs_is_a_504(upstream: ImsLookalike, target: str) -> None:
    """Within the time limit, and not stored."""
    gate = asyncio.Event()

    async def script(_: RecordedCall) -> None:
        await gate.wait()

    upstream.response_hook = script
    async with a_proxy(upstream.base_url, upstream={"url": upstream.base_url, "read_timeout_s": 0.2}) as proxy:
        answer = await proxy.client.ask(target)
        assert (answer.status, answer.json()["error_code"]) == (504, "PROXY.0504")
        gate.set()
        upstream.response_hook = None
        assert (await proxy.client.ask(target)).status == 200


@pytest.mark.parametrize("target", [LIST, "/v2/schemas/image"])
async def test_an_upstream_that_dies_on_the_way_is_a_502(client: Client, upstream: ImsLookalike, target: str) -> None:
    """A cut connection before the answer is an error of the proxy's, and the next request works."""

    async def script(call: RecordedCall) -> None:
        call.abort_connection()

    upstream.response_hook = script
    answer = await client.ask(target)
    assert (answer.status, answer.json()["error_code"]) == (502, "PROXY.0502")
    upstream.response_hook = None
    assert (await client.ask(target)).status == 200


async def test_a_list_cut_short_is_never_stored(client: Client, upstream: ImsLookalike) -> None:
    """An answer that ends before its length is an error, not a shorter list."""

    async def script(call: RecordedCall) -> web.StreamResponse | None:
        assert call.transport is not None
        call.transport.write(
            b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{"images":[{"id":"a"}]}'
        )
        await asyncio.sleep(0)
        call.transport.close()
        return None

    upstream.response_hook = script
    assert (await client.ask(LIST)).status == 502
    upstream.response_hook = None
    assert len((await client.ask(LIST)).ids) == 5


async def test_errors_are_counted_by_status(proxy: Proxy) -> None:
    """A refused request stands in the metrics with its status."""
    await proxy.client.ask(LIST, token="unknown")
    assert await proxy.metric('ims_proxy_requests_total{cache_status="uri-miss",route="list",status="401"') == 1
