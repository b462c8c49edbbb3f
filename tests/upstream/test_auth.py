"""A token of our own: fetched by one for all, renewed before it ends."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, suppress

import pytest

from proxy.core.call_context import DEFAULT_CONTEXT, CallContext
from proxy.core.messages import Fields, Request, Response, StreamedResponse
from proxy.core.partition import Partitioner
from proxy.core.signing import SigningKey
from proxy.errors import IdentityChangedError, ProxyError, UpstreamUnreachableError
from proxy.upstream.auth import AccessKeyAuth, AuthenticatedUpstream, IdentitySnapshot, OwnIdentity, TokenAuth
from proxy.upstream.keystone import IssuedToken

NOW = 1_777_593_600.0
PARTITIONER = Partitioner(b"sixteen bytes or more")


def an_identity(name: str) -> IdentitySnapshot:
    """Return the identity with that name."""
    return IdentitySnapshot((name,), SigningKey("", ""), f"a token for {name}")


class World:
    """A credential, a clock held by hand, and an IAM that numbers the tokens it issues."""

    def __init__(self, lifetime_s: float = 86_400.0) -> None:
        self.now = NOW
        self.issued = 0
        self.away = False
        self.lifetime_s = lifetime_s
        self.gate = asyncio.Event()
        self.gate.set()
        self.whose = "a user"
        self.refused: list[str | None] = []
        self.ordered: list[str] = []
        self.own = OwnIdentity(lambda: an_identity(self.whose), PARTITIONER)
        self.credential = TokenAuth(self._issue, identity_for=self.own.for_request, clock=lambda: self.now)

    async def _issue(self, whose: IdentitySnapshot, refused: str | None) -> IssuedToken:
        self.issued += 1
        self.refused.append(refused)
        self.ordered.append(whose.order)
        await self.gate.wait()
        if self.away:
            raise UpstreamUnreachableError("iam: away")
        return IssuedToken(f"token-{self.issued}", self.now, self.now + self.lifetime_s)

    async def sent(self) -> Request:
        """Return a request that comes now as it goes up."""
        claimant = CallContext(partition=self.own.partition.digest)
        return await self.credential.apply(Request("GET", "/v2/images", Fields(), "r", context=claimant))

    async def token(self) -> str | None:
        """Return the token that goes up."""
        return (await self.sent()).fields.get("x-auth-token")


async def test_all_wait_for_one_token() -> None:
    """Callers at once cause one token to be issued."""
    world = World()
    world.gate.clear()
    waiting = [asyncio.ensure_future(world.token()) for _ in range(20)]
    await asyncio.sleep(0)
    world.gate.set()
    assert set(await asyncio.gather(*waiting)) == {"token-1"}
    assert world.issued == 1


@pytest.mark.parametrize(("lifetime_s", "before_s"), [(86_400.0, 600.0), (1000.0, 100.0)])
async def test_a_token_is_renewed_before_it_ends(lifetime_s: float, before_s: float) -> None:
    """Ten minutes before its end, or a tenth of its life if that is less, another is fetched."""
    world = World(lifetime_s)
    assert await world.token() == "token-1"
    world.now += lifetime_s - before_s - 1
    assert await world.token() == "token-1"
    world.now += 1
    assert await world.token() == "token-2"


async def test_a_token_that_can_not_be_renewed_is_used_until_it_ends() -> None:
    """IAM being away costs nothing while the token holds; then there is none."""
    world = World(1000.0)
    await world.token()
    world.away = True
    world.now += 999.0
    assert await world.token() == "token-1"
    world.now += 1.0
    with pytest.raises(ProxyError):
        await world.token()


async def test_only_the_token_that_was_refused_is_given_up() -> None:
    """A late 401 for an older token does not throw away the newer one."""
    world = World()
    first = await world.sent()
    assert world.credential.on_unauthorized(first)
    assert await world.token() == "token-2"
    assert world.credential.on_unauthorized(first)
    assert await world.token() == "token-2"
    assert world.refused == [None, "token-1"]


async def test_tokens_that_are_all_refused_are_not_fetched_for_each_request() -> None:
    """Where the upstream refuses the token that replaced a refused one too, it is kept for a minute."""
    world = World()
    assert world.credential.on_unauthorized(await world.sent())
    for _ in range(20):
        assert not world.credential.on_unauthorized(await world.sent())
    assert world.issued == 2
    world.now += 60.0
    assert world.credential.on_unauthorized(await world.sent())
    assert await world.token() == "token-3"


async def test_a_token_of_whom_the_proxy_no_longer_is_goes_up_no_more() -> None:
    """When its key is replaced, a token is fetched by the new one at once."""
    world = World()
    await world.token()
    world.whose = "another user"
    assert await world.token() == "token-2"


async def test_a_renewal_holds_nobody_up() -> None:
    """While one caller fetches the next token, others go on with the one that still holds."""
    world = World()
    await world.token()
    world.now += world.lifetime_s - 1
    world.gate.clear()
    renewing = asyncio.ensure_future(world.token())
    await asyncio.sleep(0)
    assert await world.token() == "token-1"
    world.gate.set()
    assert await renewing == "token-2"


async def test_a_login_that_fails_is_tried_ever_less_often() -> None:
    """IAM locks who fails five times in a row: in five minutes at most nine are tried, with no token or an old one."""
    for begins_with_one in (False, True):
        world = World(1000.0)
        if begins_with_one:
            await world.token()
            world.now += 950.0
        world.away, world.issued = True, 0
        for _ in range(3000):
            with suppress(ProxyError):
                await world.token()
            world.now += 0.1
        assert 5 <= world.issued <= 9
        world.away = False
        world.now += 300.0
        await world.token()


async def test_nobody_speaks_for_who_the_proxy_was_before() -> None:
    """While the first token of another identity is fetched, and where there is none, that of before is not sent."""
    world = World()
    assert await world.token() == "token-1"
    world.whose, world.away = "another user", True
    world.gate.clear()
    waiting = [asyncio.ensure_future(world.token()) for _ in range(3)]
    await asyncio.sleep(0)
    world.gate.set()
    got = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(each) for each in got] == [UpstreamUnreachableError] * 3
    with pytest.raises(UpstreamUnreachableError):
        await world.token()


async def test_a_token_that_comes_after_its_identity_changed_is_not_kept() -> None:
    """One that was ordered before a key was replaced, and comes after, is of who the proxy was."""
    world = World()
    world.gate.clear()
    late = asyncio.ensure_future(world.token())
    await asyncio.sleep(0)
    world.whose = "another user"
    world.gate.set()
    assert await late == "token-1"
    assert await world.token() == "token-2"


async def test_who_waited_for_the_login_of_another_is_not_logged_in_as_who_the_proxy_was() -> None:
    """While a token is fetched the key is replaced: who lined up behind gets none, and IAM hears no old password."""
    world = World()
    world.gate.clear()
    crowd = [asyncio.ensure_future(world.token()) for _ in range(5)]
    await asyncio.sleep(0)
    world.whose = "another user"
    world.gate.set()
    first, *rest = await asyncio.gather(*crowd, return_exceptions=True)
    assert first == "token-1"
    assert {type(each) for each in rest} == {IdentityChangedError}
    assert await world.token() == "token-2"
    assert world.ordered == ["a token for a user", "a token for another user"]


async def test_a_request_is_sent_as_nobody_else_than_whom_it_is_for() -> None:
    """By signature or by token, for who the proxy was before and for nobody in particular: nothing is made."""
    world = World()
    keys = AccessKeyAuth(world.own.for_request, host="ims", project_id=None, clock=lambda: world.now)
    before = CallContext(partition=world.own.partition.digest)
    world.whose = "another user"
    for claimant in (before, DEFAULT_CONTEXT):
        request = Request("GET", "/v2/images", Fields(), "r", context=claimant)
        for credential in (keys, world.credential):
            with pytest.raises(IdentityChangedError):
                await credential.apply(request)
    assert world.issued == 0


async def test_a_refused_request_is_not_repeated_as_somebody_else() -> None:
    """The token is answered 401 because its user was replaced: no token of the next one asks in its place."""
    world = World()
    sent: list[Request] = []

    class Refusing:
        async def fetch(self, request: Request) -> Response:
            sent.append(request)
            world.whose = "another user"
            return Response(401)

        def stream(self, request: Request) -> AbstractAsyncContextManager[StreamedResponse]:
            raise AssertionError(request)

    upstream = AuthenticatedUpstream(Refusing(), world.credential)
    claimant = CallContext(partition=world.own.partition.digest)
    with pytest.raises(IdentityChangedError):
        await upstream.fetch(Request("GET", "/v2/images", Fields(), "r", context=claimant))
    assert len(sent) == 1


async def test_what_proves_an_identity_stands_in_no_representation() -> None:
    """Neither a secret nor an order for a token is told by what ends up in logs."""
    identity = IdentitySnapshot(("a user",), SigningKey("AK", "its secret", "its token"), "an order with a password")
    assert not [told for told in ("its secret", "its token", "password") if told in repr(identity)]
