"""Signed requests: answered from the store only to who holds the key, and sent up under a signature of their own."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from proxy.core.messages import Fields, Request
from proxy.core.signing import (
    UNSIGNED_PAYLOAD,
    RequestSigner,
    SigningKey,
    canonical_request,
    find_signature_fault,
    parse_signature,
)
from proxy.demo.app import ImsLookalike, RecordedCall
from proxy.demo.filters import Caller
from proxy.http.body_buffering import MAX_BUFFERED_BYTES
from tests.support.running import Answer, Proxy, a_proxy

SECRETS = {"AKALPHA": "the secret of alpha", "AKBETA": "the secret of beta"}
PROJECTS = {"AKALPHA": "a1fa0000000000000000000000000001", "AKBETA": "be7a0000000000000000000000000002"}
LIST = "/v2/images?limit=10"


@pytest.fixture
async def signing_upstream(upstream: ImsLookalike) -> ImsLookalike:
    """An upstream that answers who signs well for its own host, each key with its project's images."""
    speaking: list[str] = []

    async def authorise(call: RecordedCall) -> web.StreamResponse | None:
        request = Request(call.method, call.target, Fields(call.headers.items()), "")
        found = parse_signature(request.fields)
        host = upstream.base_url.removeprefix("http://")
        if (
            found is None
            or find_signature_fault(request, found, SECRETS.get(found.access_key, "another"), now=time.time())
            or call.headers["Host"] != host
        ):
            return web.json_response({"error_code": "APIGW.0301"}, status=401)
        speaking[:] = [found.access_key]
        return None

    upstream.response_hook = authorise
    upstream._authenticate = lambda request: Caller("signer", PROJECTS[speaking[0]])  # type: ignore[method-assign]
    return upstream


@pytest.fixture
async def proxy(signing_upstream: ImsLookalike, tmp_path: Path) -> AsyncIterator[Proxy]:
    """A proxy that holds the secret of two keys."""
    keys = {}
    for access, secret in SECRETS.items():
        keys[access] = tmp_path / access
        keys[access].write_text(f"{secret}\n")
    async with a_proxy(signing_upstream.base_url, identity={"access_keys": keys}) as started:
        yield started


def signed(
    proxy: Proxy,
    target: str = LIST,
    *lines: tuple[str, str],
    access: str = "AKALPHA",
    secret: str | None = None,
    at: float | None = None,
    token: str | None = None,
) -> Request:
    """Return a request that *access* signs for the proxy's host."""
    key = SigningKey(access, secret or SECRETS[access], token)
    host = proxy.client.url.removeprefix("http://")
    return RequestSigner(key, host).sign(Request("GET", target, Fields(lines), ""), now=at or time.time())


async def send(proxy: Proxy, request: Request, *more: tuple[str, str]) -> Answer:
    return await proxy.client.ask(request.target, token=None, fields=[*request.fields, *more])


async def test_two_requests_of_one_key_share(proxy: Proxy, signing_upstream: ImsLookalike) -> None:
    """The second is answered from the store though it was signed at another moment and asks for another page size."""
    first = await send(proxy, signed(proxy))
    assert first.status == 200, first.body
    second = await send(proxy, signed(proxy, "/v2/images?limit=5", at=time.time() - 60))
    assert second.hit
    assert second.ids == first.ids[:5]
    assert len(signing_upstream.calls) == 1


async def test_two_keys_share_nothing(proxy: Proxy, signing_upstream: ImsLookalike) -> None:
    """Each key is fetched for under its own signature, and sees its own images."""
    alpha = await send(proxy, signed(proxy))
    beta = await send(proxy, signed(proxy, access="AKBETA"))
    assert not beta.hit
    assert alpha.ids != beta.ids


@pytest.mark.parametrize(
    ("attack", "detail"),
    [
        pytest.param({"secret": "guessed"}, "bad-signature", id="a known key, a wrong signature"),
        pytest.param({"access": "AKNOBODY", "secret": "x"}, "signed", id="a key nobody knows"),
        pytest.param({"at": 1.0}, "signature-skew", id="an old signature"),
    ],
)
async def test_who_can_not_sign_sees_nothing_stored(
    proxy: Proxy, signing_upstream: ImsLookalike, attack: dict[str, str | float], detail: str
) -> None:
    """On a warm store a bad signature goes up as it came, once, and gets the upstream's own 401."""
    await send(proxy, signed(proxy))
    signing_upstream.clear_recorded_calls()
    forged = signed(proxy, **attack)  # type: ignore[arg-type]
    answer = await send(proxy, forged)
    assert answer.status == 401
    assert f"detail={detail}" in answer.cache_status
    (call,) = signing_upstream.calls
    assert call.headers["Authorization"] == forged.fields.get("authorization")


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(("X-Project-Id", "beta"), id="a project put in after signing"),
        pytest.param(("X-Domain-Id", "beta"), id="a domain put in after signing"),
        pytest.param(("X-Security-Token", "beta"), id="a security token put in after signing"),
        pytest.param(("X-Auth-Token", "demo-token-beta"), id="a token beside the signature"),
        pytest.param(("Cookie", "a=b"), id="a cookie beside the signature"),
    ],
)
async def test_what_is_not_signed_is_not_believed(
    proxy: Proxy, signing_upstream: ImsLookalike, more: tuple[str, str]
) -> None:
    """A field that says for whom, put in on the way, is not blessed by a signature of ours."""
    await send(proxy, signed(proxy))
    signing_upstream.clear_recorded_calls()
    request = signed(proxy)
    answer = await send(proxy, request, more)
    assert not answer.hit
    assert "stored" not in answer.cache_status
    (call,) = signing_upstream.calls
    assert call.headers["Authorization"] == request.fields.get("authorization")


async def test_another_project_or_security_token_is_another_identity(
    proxy: Proxy, signing_upstream: ImsLookalike
) -> None:
    """What is signed of for whom the key speaks is part of who shares, and goes up signed."""
    variants = [
        signed(proxy),
        signed(proxy, LIST, ("X-Project-Id", "p1")),
        signed(proxy, LIST, ("X-Project-Id", "p2")),
        signed(proxy, token="st-1"),
        signed(proxy, token="st-2"),
    ]
    assert [(await send(proxy, request)).hit for request in variants] == [False] * 5
    sent = [(call.headers.get("X-Project-Id"), call.headers.get("X-Security-Token")) for call in signing_upstream.calls]
    assert sent == [(None, None), ("p1", None), ("p2", None), (None, "st-1"), (None, "st-2")]
    assert [call.status for call in signing_upstream.calls] == [200] * 5


async def test_what_is_passed_through_is_signed_for_the_upstream(proxy: Proxy, signing_upstream: ImsLookalike) -> None:
    """A signed request without a body that is no list is signed anew: the caller's covers the proxy's host."""
    assert (await send(proxy, signed(proxy, "/v2/schemas/image"))).status == 200


async def test_a_resource_is_shared_by_who_signs_with_the_key(proxy: Proxy, signing_upstream: ImsLookalike) -> None:
    """Its `Authorization` is what the partition is made of, not a reason to keep nothing."""
    answers = [await send(proxy, signed(proxy, "/v2/schemas/image")) for _ in range(2)]
    assert [answer.hit for answer in answers] == [False, True]
    assert len(signing_upstream.calls) == 1


async def test_a_refused_signature_is_never_tried_again(proxy: Proxy, signing_upstream: ImsLookalike) -> None:
    """A 401 goes to the caller as it is: five of them lock the key."""

    async def refuse(_: RecordedCall) -> web.StreamResponse | None:
        return web.json_response({"error_code": "APIGW.0301"}, status=401)

    signing_upstream.response_hook = refuse
    assert (await send(proxy, signed(proxy))).status == 401
    assert len(signing_upstream.calls) == 1


async def test_a_signature_of_one_list_opens_no_other(proxy: Proxy, signing_upstream: ImsLookalike) -> None:
    """A captured signature is not good for another query, warm or not."""
    await send(proxy, signed(proxy, "/v2/images?limit=10&visibility=private"))
    captured = signed(proxy)
    moved = replace(captured, target="/v2/images?limit=10&visibility=private")
    answer = await send(proxy, moved)
    assert answer.status == 401
    assert "bad-signature" in answer.cache_status


def posted(proxy: Proxy, body: bytes, *, stated: str | None) -> Request:
    """Return a write of AKALPHA's, the body's hash in a field where one is *stated*, or left to be computed."""
    host = proxy.client.url.removeprefix("http://")
    signing = RequestSigner(SigningKey("AKALPHA", SECRETS["AKALPHA"]), host)
    request = Request("POST", "/v2/images", Fields([("Content-Type", "application/json")]), "", body=_Streamed(body))
    made = signing.sign(request, payload_hash=stated or hashlib.sha256(body).hexdigest(), now=time.time())
    if stated is not None:
        return made
    names = ("content-type", "host", "x-sdk-date")
    plain = replace(made, fields=made.fields.without(["authorization", "x-sdk-content-sha256"]))
    canonical = canonical_request(plain, names, hashlib.sha256(body).hexdigest())
    to_sign = f"SDK-HMAC-SHA256\n{plain.fields.get('x-sdk-date')}\n{hashlib.sha256(canonical).hexdigest()}"
    digits = hmac.new(SECRETS["AKALPHA"].encode(), to_sign.encode(), "sha256").hexdigest()
    said = f"SDK-HMAC-SHA256 Access=AKALPHA, SignedHeaders={';'.join(names)}, Signature={digits}"
    return replace(plain, fields=plain.fields.plus(("Authorization", said)))


class _Streamed:
    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._body


SMALL = b'{"name":"made by a signed request","disk_format":"qcow2","container_format":"bare"}'
LARGE = SMALL + b" " * (2 * MAX_BUFFERED_BYTES)


@pytest.fixture
def bodies(signing_upstream: ImsLookalike) -> list[tuple[str, bool]]:
    """What the upstream was sent, the hash that was signed and whether the signature is good, by any body."""
    seen: list[tuple[str, bool]] = []

    async def look(call: RecordedCall) -> web.StreamResponse | None:
        request = Request(call.method, call.target, Fields(call.headers.items()), "")
        found = parse_signature(request.fields)
        assert found is not None
        stated = call.headers.get("X-Sdk-Content-Sha256", "")
        seen.append(
            (
                stated,
                find_signature_fault(request, found, SECRETS[found.access_key], body_hash=stated, now=time.time())
                is None,
            )
        )
        return web.json_response({}, status=201)

    signing_upstream.response_hook = look
    return seen


@pytest.mark.parametrize(
    ("body", "stated", "goes_up"),
    [
        pytest.param(SMALL, None, hashlib.sha256(SMALL).hexdigest(), id="its hash computed"),
        pytest.param(SMALL, hashlib.sha256(SMALL).hexdigest(), hashlib.sha256(SMALL).hexdigest(), id="its hash stated"),
        pytest.param(SMALL, UNSIGNED_PAYLOAD, UNSIGNED_PAYLOAD, id="left out of the signature"),
        pytest.param(LARGE, UNSIGNED_PAYLOAD, UNSIGNED_PAYLOAD, id="long, and left out"),
    ],
)
async def test_a_body_that_is_vouched_for_goes_up_under_a_new_signature(
    proxy: Proxy, bodies: list[tuple[str, bool]], body: bytes, stated: str | None, goes_up: str
) -> None:
    """The signature for the upstream covers the same of the body as the caller's did."""
    request = posted(proxy, body, stated=stated)
    answer = await proxy.client.ask(request.target, method="POST", token=None, fields=request.fields, body=body)
    assert answer.status == 201
    assert bodies == [(goes_up, True)]


@pytest.mark.parametrize(
    ("signed_body", "body", "stated"),
    [
        pytest.param(SMALL, SMALL.replace(b"made", b"evil"), None, id="a body put in the place of another"),
        pytest.param(SMALL, SMALL + b" ", hashlib.sha256(SMALL).hexdigest(), id="another than is stated"),
        pytest.param(LARGE, LARGE, None, id="too long to look at"),
    ],
)
async def test_a_body_that_is_not_vouched_for_goes_through_as_it_came(
    proxy: Proxy,
    signing_upstream: ImsLookalike,
    bodies: list[tuple[str, bool]],
    signed_body: bytes,
    body: bytes,
    stated: str,
) -> None:
    """No signature of ours blesses it: it goes up once, whole, under the caller's own."""
    request = posted(proxy, signed_body, stated=stated)
    await proxy.client.ask(request.target, method="POST", token=None, fields=request.fields, body=body)
    (call,) = signing_upstream.calls
    assert call.headers["Authorization"] == request.fields.get("authorization")
    assert call.headers["Content-Length"] == str(len(body))
