"""IAM's verdict of a token ends while its request waits for the fetch of another's."""

from __future__ import annotations

import asyncio

import pytest

from proxy.auth.authenticators import ProjectAuthenticator
from proxy.auth.token_verifier import TokenVerifier
from proxy.config.policies import make_list_rules
from proxy.core.freshness import TrustPeriod
from proxy.core.messages import Fields, Request, Response
from proxy.core.partition import TokenScope
from proxy.gateway.gateway import ClientConnection, GatewayResponse
from proxy.observability.logging import Telemetry
from proxy.runtime.container import make_engines
from proxy.storage.memory import MemoryStore
from proxy.upstream.keystone import TokenInfo
from tests.support.held import Whole
from tests.support.listings import SECRET, Hand
from tests.support.model import Model, body
from tests.support.running import settings_for

LIST, IMAGE = "/v2/images?limit=5", "/v2/images/an-image"
LEADER, FOLLOWER = "token-of-the-leader", "token-of-the-follower"


class Cloud(Whole):
    """An upstream and an IAM that know the same *tokens*; *judged* and *asked* are the tokens that came to each.

    The upstream answers when the *gate* is open.
    """

    def __init__(self) -> None:
        self.tokens: dict[str, tuple[str, ...]] = dict.fromkeys((LEADER, FOLLOWER), ("member",))
        self.judged: list[str] = []
        self.asked: list[str] = []
        self.gate = asyncio.Event()
        self.called = asyncio.Event()

    async def fetch_token_info(self, token: str) -> TokenInfo | None:
        self.judged.append(token)
        roles = self.tokens.get(token)
        return TokenInfo(TokenScope("project", "a domain", "a project", roles, token), 1e12) if roles else None

    async def fetch(self, request: Request) -> Response:
        token = request.fields.get("x-auth-token") or ""
        self.asked.append(token)
        self.called.set()
        await self.gate.wait()
        if token not in self.tokens:
            return Response(401, Fields(), b"{}")
        page = body(Model(("a", "b", "c")).cut("", 5))
        return Response(200, Fields(), page if request.path == "/v2/images" else b'{"id":"a","status":"active"}')


@pytest.fixture(params=[LIST, IMAGE])
def target(request: pytest.FixtureRequest) -> str:
    """What is asked for."""
    return str(request.param)


async def followed(
    cloud: Cloud, target: str, *, verdict_ttl_s: float, waits_s: float, roles: tuple[str, ...] | None
) -> tuple[int, str]:
    """Return the status and `Cache-Status` of the follower, which waits so long, and whose roles are then these."""
    hand, asks = Hand(), make_list_rules(settings_for("http://ims.example"), SECRET)

    async def tell(_: list[str]) -> None:
        return

    verifier = TokenVerifier(cloud, trust=TrustPeriod(verdict_ttl_s), publish_tags=tell, clock=hand)
    made = make_engines(
        settings_for("http://ims.example"),
        cloud,
        MemoryStore(1 << 24),
        asks,
        telemetry=Telemetry(),
        clock=hand,
        rng=lambda: 0.0,
        authenticator=ProjectAuthenticator(asks.partitioner, token_verifier=verifier),
    )

    async def got(token: str) -> tuple[int, str]:
        request = Request("GET", target, Fields([("X-Auth-Token", token)]), "id")
        async with asyncio.timeout(60), made.gateway.answer(request, ClientConnection("127.0.0.1", "")) as answer:
            return _status(answer), str(answer.cache_status)

    tasks = [asyncio.ensure_future(got(LEADER))]
    async with asyncio.timeout(60):
        await cloud.called.wait()
    tasks.append(asyncio.ensure_future(got(FOLLOWER)))
    for _ in range(20):
        await asyncio.sleep(0)
    hand.now += waits_s
    if roles is None:
        del cloud.tokens[FOLLOWER]
    else:
        cloud.tokens[FOLLOWER] = roles
    cloud.gate.set()
    leader, follower = await asyncio.gather(*tasks)
    await made.close()
    await verifier.close()
    assert leader[0] == 200
    return follower


def _status(answer: GatewayResponse) -> int:
    told = answer.response or answer.streamed
    assert told is not None
    return told.status


@pytest.mark.parametrize(("verdict_ttl_s", "waits_s"), [(0.0, 5.0), (60.0, 70.0)])
async def test_a_token_that_was_revoked_while_it_waited_gets_nothing(
    target: str, verdict_ttl_s: float, waits_s: float
) -> None:
    """Its verdict has ended when the fetch does: IAM is asked again, and refuses it; the upstream does so too."""
    cloud = Cloud()
    status, told = await followed(cloud, target, verdict_ttl_s=verdict_ttl_s, waits_s=waits_s, roles=None)
    assert (status, "token-refused" in told) == (401, True)


async def test_a_token_that_lost_a_role_while_it_waited_asks_alone(target: str) -> None:
    """It is of another partition now, whose answers are others."""
    cloud = Cloud()
    status, told = await followed(cloud, target, verdict_ttl_s=60.0, waits_s=70.0, roles=("reader",))
    assert (status, "token-changed" in told) == (200, True)
    assert cloud.asked == [LEADER, FOLLOWER]


@pytest.mark.parametrize(("waits_s", "judged"), [(0.5, 1), (70.0, 2)])
async def test_a_token_that_is_still_good_takes_the_answer(target: str, waits_s: float, judged: int) -> None:
    """IAM is asked again where the verdict has ended, and one fetch serves both all the same."""
    cloud = Cloud()
    status, told = await followed(cloud, target, verdict_ttl_s=60.0, waits_s=waits_s, roles=("member",))
    assert (status, "collapsed" in told) == (200, True)
    assert cloud.asked == [LEADER]
    assert cloud.judged.count(FOLLOWER) == judged
