"""Project mode with a real Keystone: fernet tokens, real scopes and roles, real revocation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from proxy.demo.app import ImsLookalike
from tests.support.keystone.server import PASSWORD, Keystone, keystone, of_project
from tests.support.running import Proxy, a_proxy

LIST = "/v2/images?limit=10"
ALPHA, BETA = of_project("alpha"), of_project("beta")


@pytest.fixture(scope="module")
def iam_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keystone]:
    """A Keystone with two projects."""
    with keystone(tmp_path_factory.mktemp("keystone"), say=print) as running:
        yield running


@pytest.fixture
async def proxy(upstream: ImsLookalike, iam_server: Keystone) -> AsyncIterator[Proxy]:
    """A proxy in project mode that asks Keystone anew each time."""
    identity = {"mode": "project", "iam_url": iam_server.url, "verdict_ttl_s": 0}
    async with a_proxy(upstream.base_url, identity=identity) as started:
        yield started


def known(upstream: ImsLookalike, *tokens: str) -> tuple[str, ...]:
    """Make *upstream* take *tokens* for alpha's: here it is Keystone that tells them apart."""
    upstream.tokens |= dict.fromkeys(tokens, upstream.tokens["demo-token-alpha"])
    return tokens


async def test_scopes_and_roles_of_real_tokens_decide_who_shares(
    proxy: Proxy, upstream: ImsLookalike, iam_server: Keystone
) -> None:
    """Two members of a project share; a reader, another project and an unscoped token don't."""
    ann, again, art, abe, bob, unscoped = known(
        upstream,
        iam_server.token("ann", ALPHA),
        iam_server.token("ann", ALPHA),
        iam_server.token("art", ALPHA),
        iam_server.token("abe", ALPHA),
        iam_server.token("bob", BETA),
        iam_server.token("ann", "unscoped"),
    )
    assert len({ann, again, art, abe, bob, unscoped}) == 6
    hits = [(await proxy.client.ask(LIST, token=token)).hit for token in (ann, again, art, abe, bob, unscoped)]
    assert hits == [False, True, True, False, False, False]
    assert len(upstream.calls) == 4


async def test_a_revoked_token_sees_nothing_while_its_project_goes_on(
    proxy: Proxy, upstream: ImsLookalike, iam_server: Keystone
) -> None:
    """With `verdict_ttl_s` 0 the first request after a revocation is refused by Keystone, and so not shared."""
    ann, art = known(upstream, iam_server.token("ann", ALPHA), iam_server.token("art", ALPHA))
    await proxy.client.ask(LIST, token=ann)
    assert (await proxy.client.ask(LIST, token=art)).hit
    iam_server.revoke(art)
    refused = await proxy.client.ask(LIST, token=art)
    assert not refused.hit
    assert "token-refused" in refused.cache_status
    assert (await proxy.client.ask(LIST, token=ann)).hit


@pytest.mark.parametrize("altered", [slice(0, -1), slice(1, None)])
async def test_an_altered_token_is_refused(
    proxy: Proxy, upstream: ImsLookalike, iam_server: Keystone, altered: slice
) -> None:
    """A token with a letter missing is none to Keystone, whatever the upstream makes of it."""
    ann = iam_server.token("ann", ALPHA)
    (part,) = known(upstream, ann[altered])
    assert "token-refused" in (await proxy.client.ask(LIST, token=part)).cache_status


async def test_the_proxy_logs_in_itself(upstream: ImsLookalike, iam_server: Keystone) -> None:
    """In gateway mode it fetches a token by password, and that is what goes up."""
    _, found = iam_server.ask("GET", "/auth/projects", token=iam_server.token("ann", ALPHA))
    (project,) = found["projects"]
    identity = {"mode": "gateway", "iam_url": iam_server.url, "user": "ann", "domain": "Default", "password": PASSWORD}
    async with a_proxy(upstream.base_url, identity=identity | {"project_id": project["id"]}) as proxy:
        await proxy.client.ask(LIST, token=None)
        await proxy.client.ask("/v2/schemas/image", token=None)
    sent = [call.headers["X-Auth-Token"] for call in upstream.calls]
    assert len(set(sent[-1:])) == 1
    _, told = iam_server.ask("GET", "/auth/tokens", token=sent[-1], subject=sent[-1])
    assert told["token"]["project"]["id"] == project["id"]
