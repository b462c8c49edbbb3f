"""The proxy's own token in gateway mode: by password or by access key, one login for all replicas, sealed in Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aiohttp import web
from redis.asyncio import Redis

from proxy.demo.app import ImsLookalike, RecordedCall
from proxy.demo.filters import Caller
from proxy.demo.seed import ALPHA_PROJECT as PROJECT
from tests.integration.security.test_attacks import everything
from tests.support.iam import PASSWORD, SECRET_KEY, IamLookalike
from tests.support.redis import RedisServer
from tests.support.running import Proxy, a_proxy

STORE_KEY = "the key of the store, long enough"
LIST = "/v2/images?limit=5"


@pytest.fixture
async def issuing(upstream: ImsLookalike, iam: IamLookalike) -> ImsLookalike:
    """The upstream, which knows every token that IAM has issued and not revoked."""

    async def know(_: RecordedCall) -> web.StreamResponse | None:
        upstream.tokens = {name: Caller("own", PROJECT) for name in iam.tokens if name.startswith("issued-")}
        return None

    upstream.response_hook = know
    return upstream


def by_password(iam: IamLookalike, **more: object) -> dict[str, object]:
    user = {"user": "robot", "domain": "acme", "password": PASSWORD}
    return {"mode": "gateway", "iam_url": iam.url, "project_id": PROJECT, **user, **more}


def by_key(iam: IamLookalike, **more: object) -> dict[str, object]:
    key = {"access_key": "AKOWN", "secret_key": SECRET_KEY, "access_key_use": "token"}
    return {"mode": "gateway", "iam_url": iam.url, "project_id": PROJECT, **key, **more}


def sealed(redis_server: RedisServer) -> dict[str, object]:
    return {"url": redis_server.url, "key": STORE_KEY}


@pytest.fixture(params=[by_password, by_key])
async def pair(
    request: pytest.FixtureRequest, issuing: ImsLookalike, iam: IamLookalike, redis_server: RedisServer, redis: Redis
) -> AsyncIterator[list[Proxy]]:
    """Two replicas on one Redis with a key."""
    async with AsyncExitStack() as stack:
        started = [a_proxy(issuing.base_url, identity=request.param(iam), store=sealed(redis_server)) for _ in "12"]
        yield [await stack.enter_async_context(each) for each in started]


async def test_replicas_that_begin_at_once_log_in_once(pair: list[Proxy], iam: IamLookalike, redis: Redis) -> None:
    """While one asks IAM the other waits, and then both speak with one token, which nobody can read in Redis."""
    iam.gate.clear()
    asking = [
        asyncio.ensure_future(proxy.client.ask(f"{LIST}&name={number}", token=None))
        for number, proxy in enumerate(pair * 3)
    ]
    await iam.asked.wait()
    iam.gate.set()
    assert [answer.status for answer in await asyncio.gather(*asking)] == [200] * 6
    assert iam.logins == 1
    (token,) = (name for name in iam.tokens if name.startswith("issued-"))
    assert token.encode() not in await everything(redis)


async def test_a_revoked_token_is_replaced_once_for_all(pair: list[Proxy], iam: IamLookalike) -> None:
    """Each replica is told 401, and the second takes the token that the first has fetched anew."""
    for number, proxy in enumerate(pair):
        assert (await proxy.client.ask(f"{LIST}&name={number}", token=None)).status == 200
    for name in [name for name in iam.tokens if name.startswith("issued-")]:
        del iam.tokens[name]
    for number, proxy in enumerate(pair):
        assert (await proxy.client.ask(f"{LIST}&name=again-{number}", token=None)).status == 200
    assert iam.issued == 2


async def test_what_was_put_into_redis_by_others_is_no_token(
    pair: list[Proxy], iam: IamLookalike, redis: Redis
) -> None:
    """A value that is altered is none: a login of one's own replaces it."""
    assert (await pair[0].client.ask(f"{LIST}&name=1", token=None)).status == 200
    (name,) = await redis.keys("ims-proxy:*:own:*")
    await redis.setrange(name, 20, b"\0\0")
    assert (await pair[1].client.ask(f"{LIST}&name=2", token=None)).status == 200
    assert iam.issued == 2


@pytest.mark.parametrize("keyed", [True, False], ids=["Redis is gone", "no key"])
async def test_without_what_it_takes_each_replica_logs_in(
    issuing: ImsLookalike, iam: IamLookalike, tmp_path: Path, keyed: bool
) -> None:
    """Where a token can't be shared, or must not be kept, each has its own, and answers come all the same."""
    with RedisServer(tmp_path) as server:
        store = {"url": server.url} | ({"key": STORE_KEY} if keyed else {})
        async with AsyncExitStack() as stack:
            proxies = [
                await stack.enter_async_context(a_proxy(issuing.base_url, identity=by_password(iam), store=store))
                for _ in "12"
            ]
            if keyed:
                server.kill()
            for number, proxy in enumerate(proxies):
                assert (await proxy.client.ask(f"{LIST}&name={number}", token=None)).status == 200
    assert iam.issued == 2


async def test_a_wrong_password_is_not_tried_for_each_request(issuing: ImsLookalike, iam: IamLookalike) -> None:
    """IAM locks who fails five times in a row: thirty requests at once and one by one are one login."""
    async with a_proxy(issuing.base_url, identity=by_password(iam, password="wrong")) as proxy:
        at_once = await asyncio.gather(*(proxy.client.ask(f"{LIST}&name={n}", token=None) for n in range(20)))
        later = [await proxy.client.ask(f"{LIST}&name=later-{n}", token=None) for n in range(10)]
    assert {answer.status for answer in (*at_once, *later)} == {502}
    assert iam.logins <= 3


async def test_a_password_that_rotates_is_read_again(
    issuing: ImsLookalike, iam: IamLookalike, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A password is taken from its file as it changes, at once, whatever came of the one before."""
    monkeypatch.setattr("proxy.config.reload.CHECK_INTERVAL_S", 0.0)
    file = tmp_path / "password"
    file.write_text("wrong")
    identity = by_password(iam, password="wrong", password_file=file)
    async with a_proxy(issuing.base_url, identity=identity) as proxy:
        assert (await proxy.client.ask(f"{LIST}&name=1", token=None)).status == 502
        file.write_text(f"{PASSWORD}\n")
        assert (await proxy.client.ask(f"{LIST}&name=2", token=None)).status == 200
    assert (iam.logins, iam.issued) == (2, 1)
