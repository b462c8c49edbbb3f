"""Single resources: whose answer is whose, and what can't be slipped into one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from aiohttp import web
from redis.asyncio import Redis

from proxy.demo.app import ImsLookalike, RecordedCall
from tests.support.iam import IamLookalike
from tests.support.redis import RedisServer
from tests.support.running import Client, Proxy, a_proxy

ALPHA, OTHER_USER = "demo-token-alpha", "demo-token-alpha-other-user"
READER, BETA = "demo-token-alpha-reader", "demo-token-beta"
SCHEMA, QUOTA = "/v2/schemas/image", "/v1/cloudimages/quota"
PUBLIC = [{"path": "/v2/schemas/*", "ttl_s": 60, "public": True}]
VARY = [{"path": "/v2/schemas/*", "ttl_s": 60, "public": True, "honor_vary": True}]


def by_project(upstream: ImsLookalike, iam: IamLookalike, **cache: object) -> AbstractAsyncContextManager[Proxy]:
    """Run a proxy in project mode."""
    identity = {"mode": "project", "iam_url": iam.url, "secret": "a secret of the tests' own"}
    return a_proxy(upstream.base_url, identity=identity, cache=cache)


@pytest.fixture
async def shared(upstream: ImsLookalike, iam: IamLookalike) -> AsyncIterator[Client]:
    """A client of a proxy in project mode."""
    async with by_project(upstream, iam) as proxy:
        yield proxy.client


async def test_a_project_shares_its_images_with_nobody_else(shared: Client) -> None:
    """By project and roles, as its lists are; another project may not even learn that there is such an image."""
    image = f"/v2/images/{(await shared.ask('/v2/images?visibility=private&limit=1', token=ALPHA)).ids[0]}"
    body = (await shared.ask(image, token=ALPHA)).body
    again = await shared.ask(image, token=OTHER_USER)
    assert (again.hit, again.body) == (True, body)
    for token, status in ((READER, 200), (BETA, 404), ("made-up", 401), (None, 401)):
        answer = await shared.ask(image, token=token)
        assert not answer.hit
        assert answer.status == status
    assert (await shared.ask(image, token=ALPHA)).hit


async def test_what_may_differ_between_users_is_each_user_s(shared: Client) -> None:
    """A quota is; a schema is the project's."""
    for target, hit in ((QUOTA, False), (SCHEMA, True)):
        await shared.ask(target, token=ALPHA)
        assert (await shared.ask(target, token=OTHER_USER)).hit is hit


async def test_a_token_that_was_revoked_sees_nothing_stored(upstream: ImsLookalike) -> None:
    """Once the upstream has refused it, on whatever path."""
    async with a_proxy(upstream.base_url) as proxy:
        await proxy.client.ask(SCHEMA, token=ALPHA)
        assert (await proxy.client.ask(SCHEMA, token=ALPHA)).hit
        upstream.tokens.pop(ALPHA)
        assert (await proxy.client.ask("/v2/images/x/members", token=ALPHA)).status == 401
        assert (await proxy.client.ask(SCHEMA, token=ALPHA)).status == 401


@pytest.mark.parametrize("routes", [PUBLIC, VARY], ids=["counted", "vary"])
async def test_a_public_answer_holds_nothing_that_a_caller_slipped_in(
    upstream: ImsLookalike, routes: list[dict[str, object]]
) -> None:
    """What an upstream may build links or another answer from does not reach it, whatever its `Vary` leaves out."""

    async def mirror(call: RecordedCall) -> web.StreamResponse:
        return web.json_response({name.lower(): value for name, value in call.headers.items()})

    upstream.response_hook = mirror
    names = ("X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Prefix", "Forwarded", "X-Host", "X-Original-URL",
             "X-Rewrite-URL", "X-HTTP-Method-Override", "X-Forwarded-Port", "X-Real-IP")  # fmt: skip
    async with a_proxy(upstream.base_url, cache={"routes": routes}) as proxy:
        first = await proxy.client.ask(SCHEMA, fields=[(name, "evil.example") for name in names])
        second = await proxy.client.ask(SCHEMA, token=BETA)
    assert second.hit
    assert b"evil" not in first.body
    assert b"evil" not in second.body


@pytest.mark.parametrize(
    "target", ["/v2/schemas/..%2fimages", "/v2/schemas/%2e%2e/images", "/v2/schemas/../images", "/v2/schemas/image;x"]
)
async def test_no_path_leads_out_of_a_public_route(upstream: ImsLookalike, target: str) -> None:
    """What an upstream could read as another path is nobody's but who asked."""

    async def anything(_: RecordedCall) -> web.StreamResponse:
        return web.json_response({"images": []}, headers={"Cache-Control": "public, max-age=60"})

    upstream.response_hook = anything
    async with a_proxy(upstream.base_url, cache={"routes": PUBLIC}) as proxy:
        for token in (ALPHA, BETA):
            assert not (await proxy.client.ask(target, token=token)).hit
    assert len(upstream.calls) == 2


async def test_a_refusal_is_not_public(upstream: ImsLookalike, iam: IamLookalike) -> None:
    """Who sends a bad token to a public route leaves nothing there for others."""
    async with by_project(upstream, iam, routes=PUBLIC) as proxy:
        assert (await proxy.client.ask(SCHEMA, token="made-up")).status == 401
        assert (await proxy.client.ask(SCHEMA, token=ALPHA)).status == 200
        assert (await proxy.client.ask(SCHEMA, token="made-up")).hit


@pytest.mark.parametrize("seal", ["none", "mac", "encrypt"])
async def test_no_token_is_kept_with_an_answer(
    upstream: ImsLookalike, redis_server: RedisServer, redis: Redis, seal: str
) -> None:
    """Neither in a key nor in a value, also where all that a caller sends may select an answer."""

    async def varying(_: RecordedCall) -> web.StreamResponse:
        return web.json_response({}, headers={"Vary": "X-Other", "Cache-Control": "max-age=60"})

    upstream.response_hook = varying
    store = {"url": redis_server.url, "seal": seal, "key": "a key of the tests' own"}
    async with a_proxy(upstream.base_url, cache={"routes": VARY}, store=store) as proxy:
        for target in (SCHEMA, QUOTA):
            await proxy.client.ask(target, token=ALPHA, X_Other="told")
            assert (await proxy.client.ask(target, token=ALPHA, X_Other="told")).hit
        keys = await redis.keys("*")
        values = [await redis.dump(key) for key in keys]
    assert any(b":s:" in key for key in keys)
    assert not [each for each in (*keys, *values) if each is not None and ALPHA.encode() in each]


async def test_callers_with_keys_of_the_proxy_s_share_what_it_sees(upstream: ImsLookalike, tmp_path: Path) -> None:
    """Their `Authorization` opens the proxy, and says nothing to the upstream."""
    callers = tmp_path / "callers.toml"
    callers.write_text('[one]\nkey = "key-of-the-first-0123"\n[two]\nkey = "key-of-the-second-0123"\n')
    identity = {"mode": "gateway", "access_key": "AK", "secret_key": "a made-up secret", "api_keys_file": str(callers)}

    async def schema(_: RecordedCall) -> web.StreamResponse:
        return web.json_response({})

    upstream.response_hook = schema
    async with a_proxy(upstream.base_url, identity=identity) as proxy:
        await proxy.client.ask(SCHEMA, token=None, Authorization="Bearer key-of-the-first-0123")
        assert (await proxy.client.ask(SCHEMA, token=None, Authorization="Bearer key-of-the-second-0123")).hit
        assert (await proxy.client.ask(SCHEMA, token=None)).status == 401
