"""Project mode: who is one identity shares, who is another sees nothing of it, whatever IAM does meanwhile."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import orjson
import pytest
from aiohttp import web
from redis.asyncio import Redis

from proxy.demo.app import ImsLookalike, RecordedCall
from tests.support.clock import Clock, clock
from tests.support.iam import IamLookalike, Token, of_project
from tests.support.redis import RedisServer
from tests.support.running import Answer, Proxy, a_proxy
from tests.support.waiting import until

__all__ = ["clock"]

ALPHA, AGAIN, OTHER_USER = "demo-token-alpha", "demo-token-alpha-again", "demo-token-alpha-other-user"
READER, BETA = "demo-token-alpha-reader", "demo-token-beta"
LIST = "/v2/images?limit=10"

MakeProxy = Callable[..., AbstractAsyncContextManager[Proxy]]


@pytest.fixture
def make_proxy(upstream: ImsLookalike, iam: IamLookalike) -> MakeProxy:
    """Make proxies in project mode."""

    def made(store: dict[str, Any] | None = None, **identity: object) -> AbstractAsyncContextManager[Proxy]:
        whole = {"mode": "project", "iam_url": iam.url, "secret": "a secret of the tests' own"} | identity
        return a_proxy(upstream.base_url, identity=whole, store=store or {})

    return made


@pytest.fixture
async def proxy(make_proxy: MakeProxy) -> AsyncIterator[Proxy]:
    """A proxy in project mode."""
    async with make_proxy() as started:
        yield started


async def ask(proxy: Proxy, token: str, target: str = LIST) -> Answer:
    return await proxy.client.ask(target, token=token)


def held(upstream: ImsLookalike) -> tuple[asyncio.Event, asyncio.Event]:
    """Hold what ALPHA asks the upstream: the first event says that it has arrived, the second lets it go on."""
    arrived, gate = asyncio.Event(), asyncio.Event()

    async def hold(call: RecordedCall) -> web.StreamResponse | None:
        if call.headers["X-Auth-Token"] == ALPHA:
            arrived.set()
            await gate.wait()
        return None

    upstream.response_hook = hold
    return arrived, gate


async def test_two_tokens_of_one_project_and_roles_share(
    proxy: Proxy, upstream: ImsLookalike, iam: IamLookalike
) -> None:
    """The second token of a project is answered from what the first one fetched, once IAM has verified it."""
    first, second = await ask(proxy, ALPHA), await ask(proxy, OTHER_USER)
    assert second.hit
    assert first.ids == second.ids
    assert len(upstream.calls) == 1
    assert iam.validated == [ALPHA, OTHER_USER]


@pytest.mark.parametrize("other", [READER, BETA])
async def test_another_role_or_project_shares_nothing(proxy: Proxy, upstream: ImsLookalike, other: str) -> None:
    """One project with other roles, and another project, are fetched for by their own token."""
    await ask(proxy, ALPHA)
    answer = await ask(proxy, other)
    assert not answer.hit
    assert [call.headers["X-Auth-Token"] for call in upstream.calls] == [ALPHA, other]


async def test_cloudimages_are_shared_by_user_only(proxy: Proxy, upstream: ImsLookalike) -> None:
    """What may depend on a user's grants is not shown to another user of the project."""
    await ask(proxy, ALPHA, "/v2/cloudimages?limit=10")
    assert not (await ask(proxy, OTHER_USER, "/v2/cloudimages?limit=10")).hit
    assert (await ask(proxy, AGAIN, "/v2/cloudimages?limit=10")).hit


@pytest.mark.parametrize("scope", [{"domain": {"id": "d1"}}, {"system": {"all": True}}, {}])
async def test_tokens_without_a_project_have_partitions_of_their_own(
    proxy: Proxy, upstream: ImsLookalike, iam: IamLookalike, scope: dict[str, object]
) -> None:
    """A domain-scoped, a system-scoped and an unscoped token share with no project."""
    await ask(proxy, ALPHA)
    iam.tokens[BETA] = Token("demo-user-alpha", scope)
    assert not (await ask(proxy, BETA)).hit


async def test_a_forged_project_changes_nothing(proxy: Proxy, upstream: ImsLookalike) -> None:
    """What a caller says of its project and roles is neither believed nor sent up."""
    await ask(proxy, ALPHA)
    forged = await proxy.client.ask(
        LIST, token=BETA, X_Project_Id="alpha", X_Roles="admin", X_Identity_Status="Confirmed"
    )
    assert not forged.hit
    assert {"x-project-id", "x-roles", "x-identity-status"}.isdisjoint(
        name.lower() for name in upstream.calls[-1].headers
    )


async def test_a_verdict_of_another_token_is_none(proxy: Proxy, upstream: ImsLookalike, iam: IamLookalike) -> None:
    """Whatever mixed them up on the way, a cache before IAM for one: nobody is taken for whom it speaks of."""
    await ask(proxy, ALPHA)
    iam.mixed_up = ALPHA
    answer = await ask(proxy, BETA)
    assert not answer.hit
    assert "token-unverified" in answer.cache_status
    assert [call.headers["X-Auth-Token"] for call in upstream.calls] == [ALPHA, BETA]


async def test_a_token_that_iam_refuses_sees_nothing_stored(
    proxy: Proxy, upstream: ImsLookalike, iam: IamLookalike
) -> None:
    """A made-up token on a warm store goes up, uncached, and gets the upstream's own answer."""
    await ask(proxy, ALPHA)
    answers = [await ask(proxy, "made-up") for _ in range(5)]
    assert {answer.status for answer in answers} == {401}
    assert "token-refused" in answers[0].cache_status
    assert iam.validated.count("made-up") == 1


async def test_a_token_that_expired_sees_nothing_stored(
    clock: Clock, proxy: Proxy, upstream: ImsLookalike, iam: IamLookalike
) -> None:
    """A token is shown stored images until its end, to the moment, though its verdict would be believed for longer."""
    iam.tokens["short"] = of_project(iam.tokens[ALPHA].scope["project"]["id"])
    iam.tokens["short"].expires_at = clock.now + 10
    upstream.tokens["short"] = upstream.tokens[ALPHA]
    assert (await ask(proxy, "short")).status == 200
    del upstream.tokens["short"]
    clock.now += 9.5
    assert (await ask(proxy, "short")).hit
    clock.now += 0.5
    assert (await ask(proxy, "short")).status == 401


async def test_a_token_that_expires_while_it_waits_for_anothers_fetch_gets_nothing_of_it(
    clock: Clock, proxy: Proxy, upstream: ImsLookalike, iam: IamLookalike
) -> None:
    """A follower whose token ends in a collapsed fetch is sent to the upstream, and gets its 401."""
    iam.tokens["short"] = of_project(iam.tokens[ALPHA].scope["project"]["id"])
    iam.tokens["short"].expires_at = clock.now + 10
    arrived, gate = held(upstream)
    leader = asyncio.ensure_future(ask(proxy, ALPHA))
    await arrived.wait()
    follower = asyncio.ensure_future(ask(proxy, "short"))

    async def joined() -> bool:
        return await proxy.metric("ims_proxy_collapsed_requests_total") == 1

    await until(joined)
    clock.now += 10
    gate.set()
    assert (await leader).status == 200
    answer = await follower
    assert answer.status == 401
    assert "token-expired" in answer.cache_status


async def test_a_token_that_is_dropped_while_it_waits_for_anothers_fetch_gets_nothing_of_it(
    proxy: Proxy, upstream: ImsLookalike, iam: IamLookalike
) -> None:
    """Whoever joined before an operator's order is sent to the upstream after it; who leads is not concerned."""
    arrived, gate = held(upstream)
    for target in (LIST, "/v2/schemas/image"):
        arrived.clear()
        gate.clear()
        collapsed = await proxy.metric("ims_proxy_collapsed_requests_total")
        leader = asyncio.ensure_future(ask(proxy, ALPHA, target))
        await arrived.wait()
        follower = asyncio.ensure_future(ask(proxy, OTHER_USER, target))

        async def joined(before: float = collapsed) -> bool:
            return await proxy.metric("ims_proxy_collapsed_requests_total") > before

        await until(joined)
        await proxy.purge(orjson.dumps({"token_digest": hashlib.sha256(OTHER_USER.encode()).hexdigest()}))
        gate.set()
        assert (await leader).status == 200
        answer = await follower
        assert "token-revoked" in answer.cache_status
        assert upstream.calls[-1].headers["X-Auth-Token"] == OTHER_USER
        assert (await ask(proxy, OTHER_USER, target)).hit, "once IAM has vouched for it again"


async def test_a_401_drops_that_tokens_verdict_and_nobody_elses(
    proxy: Proxy, upstream: ImsLookalike, iam: IamLookalike
) -> None:
    """The upstream refuses a token that IAM still vouched for: it is verified anew; its project's list stays."""
    await ask(proxy, ALPHA)
    await ask(proxy, OTHER_USER)
    known, upstream.tokens = upstream.tokens, {}
    assert (await ask(proxy, ALPHA, "/v2/schemas/images")).status in (200, 401)
    calls = len(upstream.calls)
    assert (await ask(proxy, ALPHA, "/v2/images?limit=3&name=unseen")).status == 401
    assert len(upstream.calls) == calls + 1, "a refusal is not asked for twice"
    upstream.tokens = known
    iam.validated.clear()
    assert (await ask(proxy, OTHER_USER)).hit
    assert (await ask(proxy, ALPHA)).hit
    assert iam.validated == [ALPHA]


async def test_one_followers_401_answers_nobody_else(proxy: Proxy, upstream: ImsLookalike, iam: IamLookalike) -> None:
    """The leader's token was revoked upstream: it gets the 401, and those who waited ask with their own."""
    arrived, gate = asyncio.Event(), asyncio.Event()

    async def hold(call: RecordedCall) -> web.StreamResponse | None:
        if call.headers["X-Auth-Token"] == ALPHA:
            arrived.set()
            await gate.wait()
            return web.json_response({"error": "revoked"}, status=401)
        return None

    upstream.response_hook = hold
    leader = asyncio.ensure_future(ask(proxy, ALPHA))
    await arrived.wait()
    followers = [asyncio.ensure_future(ask(proxy, OTHER_USER)) for _ in range(10)]
    await until(lambda: len(iam.validated) == 2)
    gate.set()
    assert (await leader).status == 401
    assert {answer.status for answer in await asyncio.gather(*followers)} == {200}


async def test_a_revoked_token_is_dropped_by_the_revocation_that_passes_through(
    make_proxy: MakeProxy, upstream: ImsLookalike, iam: IamLookalike
) -> None:
    """`DELETE /v3/auth/tokens` through the proxy ends what the proxy believed of that token."""

    async def revoke(call: RecordedCall) -> web.StreamResponse | None:
        return web.Response(status=204) if call.method == "DELETE" else None

    async with make_proxy() as proxy:
        await ask(proxy, ALPHA)
        upstream.response_hook = revoke
        del iam.tokens[ALPHA]
        assert (await ask(proxy, ALPHA)).hit
        revoked = await proxy.client.ask("/v3/auth/tokens", method="DELETE", token=BETA, X_Subject_Token=ALPHA)
        assert revoked.status == 204
        assert not (await ask(proxy, ALPHA)).hit


@pytest.mark.parametrize("replicas", [1, 2])
async def test_an_operator_drops_a_verdict_by_the_tokens_hash(
    make_proxy: MakeProxy, iam: IamLookalike, redis_server: RedisServer, redis: Redis, replicas: int
) -> None:
    """`POST /purge {"token_digest": …}` at one replica drops what every replica believes of a token."""
    store = {"url": redis_server.url}
    async with make_proxy(store=store) as first, make_proxy(store=store) as second:

        async def listening() -> bool:
            (name,) = await redis.keys("ims-proxy:*:{lists}:replicas") or [""]
            return bool(await redis.zcard(name) == 2)

        await until(listening)  # until then they take it that they may have missed something
        asked = second if replicas == 2 else first
        assert (await ask(asked, ALPHA)).status == 200
        del iam.tokens[ALPHA]
        assert (await ask(asked, ALPHA)).hit
        order = orjson.dumps({"token_digest": hashlib.sha256(ALPHA.encode()).hexdigest()})
        purged = await first.purge(order)
        assert purged.status == 200, purged.body
        assert not (await ask(asked, ALPHA)).hit


@pytest.mark.parametrize("shared", [True, False], ids=["two replicas", "process memory"])
async def test_a_purge_of_a_project_leaves_the_others_theirs(
    make_proxy: MakeProxy,
    iam: IamLookalike,
    upstream: ImsLookalike,
    redis_server: RedisServer,
    redis: Redis,
    shared: bool,
) -> None:
    """What the project's tokens see is dropped, whatever their roles, and what a domain's token sees, which may be any
    project's; another project keeps its lists.
    """
    domain = "a-token-of-a-domain"
    iam.tokens[domain] = Token("u", {"domain": {"id": "d1"}})
    upstream.tokens[domain] = upstream.tokens[ALPHA]
    project = upstream.tokens[ALPHA].project
    store: dict[str, Any] = {"url": redis_server.url} if shared else {}
    async with make_proxy(store=store) as first, make_proxy(store=store) as second:
        asked = second if shared else first
        for token in (ALPHA, READER, BETA, domain):
            assert (await ask(asked, token)).status == 200
        nobody = await first.purge(orjson.dumps({"project": "another"}))
        assert nobody.json() == {"dropped": 1}
        purged = await first.purge(orjson.dumps({"project": project}))
        assert purged.json() == {"dropped": 2}
        assert [(await ask(asked, token)).hit for token in (ALPHA, READER, BETA, domain)] == [False, False, True, False]
        assert (await ask(asked, OTHER_USER)).hit


async def test_what_is_verified_goes_on_while_iam_is_away(
    proxy: Proxy, upstream: ImsLookalike, iam: IamLookalike
) -> None:
    """With IAM failing, known tokens are answered from the store, unknown ones by the upstream, uncached."""
    await ask(proxy, ALPHA)
    iam.failing = 503
    assert (await ask(proxy, ALPHA)).hit
    unknown = await ask(proxy, OTHER_USER)
    assert unknown.status == 200
    assert "token-unverified" in unknown.cache_status
    assert "stored" not in unknown.cache_status


async def test_asking_every_time_leaves_a_revoked_token_nothing(
    make_proxy: MakeProxy, upstream: ImsLookalike, iam: IamLookalike
) -> None:
    """With `verdict_ttl_s` 0 a token that IAM no longer knows is not shown what is stored, at once."""
    async with make_proxy(verdict_ttl_s=0) as proxy:
        await ask(proxy, ALPHA)
        assert (await ask(proxy, ALPHA)).hit
        assert iam.validated == [ALPHA, ALPHA]
        del iam.tokens[ALPHA]
        del upstream.tokens[ALPHA]
        assert (await ask(proxy, ALPHA)).status == 401


async def test_a_token_is_asked_about_as_it_is_and_not_as_it_is_spelt(
    proxy: Proxy, upstream: ImsLookalike, iam: IamLookalike
) -> None:
    """python-glanceclient's spelling is undone before IAM is asked, and one that hides a line break asks nobody."""
    iam.tokens["a/b+c="] = iam.tokens[ALPHA]
    upstream.tokens["a%2Fb%2Bc%3D"] = upstream.tokens[ALPHA]
    assert (await ask(proxy, "a%2Fb%2Bc%3D")).status == 200
    assert iam.validated == ["a/b+c="]
    assert "token-refused" in (await ask(proxy, "a%0d%0aX-Evil:%201")).cache_status
    assert len(iam.validated) == 1
