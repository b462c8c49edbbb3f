"""`identity.share_public`: what every verified caller may see is fetched once for all of them, and nothing else is."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from proxy.demo.app import ImsLookalike, RecordedCall
from tests.support.iam import IamLookalike, Token
from tests.support.running import Proxy, a_proxy

ALPHA, READER, BETA = "demo-token-alpha", "demo-token-alpha-reader", "demo-token-beta"
PUBLIC = "/v2/images?visibility=public&limit=5"


@pytest.fixture
async def proxy(upstream: ImsLookalike, iam: IamLookalike) -> AsyncIterator[Proxy]:
    """A proxy in project mode that shares public lists."""
    identity = {"mode": "project", "iam_url": iam.url, "share_public": True}
    async with a_proxy(upstream.base_url, identity=identity) as started:
        yield started


async def test_a_public_list_is_fetched_once_for_all(proxy: Proxy, upstream: ImsLookalike) -> None:
    """Other projects and roles are answered from what the first caller fetched, page after page."""
    first = await proxy.client.ask(PUBLIC, token=ALPHA)
    assert first.ids
    assert first.ids == (await proxy.client.ask(PUBLIC, token=BETA)).ids
    assert (await proxy.client.ask(PUBLIC, token=READER)).hit
    following = first.json()["next"]
    second = await proxy.client.ask(following, token=BETA)
    assert (await proxy.client.ask(following, token=ALPHA)).hit
    assert second.ids
    assert len(upstream.calls) == 2


@pytest.mark.parametrize(
    "query",
    [
        pytest.param("", id="no visibility"),
        pytest.param("visibility=private", id="private"),
        pytest.param("visibility=shared", id="shared"),
        pytest.param("visibility=public&visibility=private", id="public, then private"),
        pytest.param("visibility=private&visibility=public", id="private, then public"),
        pytest.param("visibility=Public", id="a look-alike of public"),
        pytest.param("__imagetype=gold", id="gold, which anyone may write on an image"),
        pytest.param("protected=true", id="protected"),
    ],
)
async def test_no_other_list_is_shared(proxy: Proxy, upstream: ImsLookalike, query: str) -> None:
    """A list that may hold a private image is each project's own."""
    target = f"/v2/images?limit=5&{query}"
    await proxy.client.ask(target, token=ALPHA)
    assert not (await proxy.client.ask(target, token=BETA)).hit


async def test_cloudimages_are_not_shared(proxy: Proxy) -> None:
    """That list may differ from user to user, public or not."""
    target = "/v2/cloudimages?visibility=public&limit=5"
    await proxy.client.ask(target, token=ALPHA)
    assert not (await proxy.client.ask(target, token=BETA)).hit


async def test_a_token_that_is_not_verified_shares_nothing(proxy: Proxy, iam: IamLookalike) -> None:
    """Without a verdict of IAM's, and without a project, the warm list is not given."""
    await proxy.client.ask(PUBLIC, token=ALPHA)
    assert (await proxy.client.ask(PUBLIC, token="made-up")).status == 401
    iam.tokens[BETA] = Token("unscoped", {})
    assert not (await proxy.client.ask(PUBLIC, token=BETA)).hit


async def test_an_upstream_that_slips_in_a_private_image_is_not_shared(proxy: Proxy, upstream: ImsLookalike) -> None:
    """What is not public goes to who fetched it, and to nobody else."""

    async def slip(call: RecordedCall) -> web.StreamResponse | None:
        images = [{"id": "1", "visibility": "public"}, {"id": "2", "visibility": "private", "name": "secret of alpha"}]
        return web.json_response({"images": images}) if call.headers["X-Auth-Token"] == ALPHA else None

    upstream.response_hook = slip
    alpha = await proxy.client.ask(PUBLIC, token=ALPHA)
    assert b"secret of alpha" in alpha.body
    assert "not-public" in alpha.cache_status
    beta = await proxy.client.ask(PUBLIC, token=BETA)
    assert beta.status == 200
    assert b"secret of alpha" not in beta.body


async def test_where_a_private_image_stands_is_told_to_nobody_else(proxy: Proxy, upstream: ImsLookalike) -> None:
    """A marker that is a private image of alpha's works for alpha, and gives beta the upstream's own refusal."""
    private = (await proxy.client.ask("/v2/images?visibility=private&limit=1", token=ALPHA)).ids[0]
    await proxy.client.ask(PUBLIC, token=ALPHA)
    behind = f"{PUBLIC}&marker={private}"
    assert (await proxy.client.ask(behind, token=ALPHA)).status == 200
    answer = await proxy.client.ask(behind, token=BETA)
    assert answer.status == 403
    assert not answer.hit
