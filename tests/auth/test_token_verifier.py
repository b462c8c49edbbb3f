"""IAM's verdicts: asked for once, believed for a while, never past the token's end."""

from __future__ import annotations

import asyncio

import pytest

from proxy.auth.token_verifier import REJECTED_TOKEN_TTL_S, TokenVerifier
from proxy.core.freshness import TrustPeriod
from proxy.core.partition import TokenScope
from proxy.errors import UpstreamUnreachableError
from proxy.upstream.keystone import TokenInfo

NOW = 1_777_593_600.0
SCOPE = TokenScope("project", "d", "p", (), "u")


class Iam:
    """Says what it is told to, once the gate is open."""

    def __init__(self) -> None:
        self.said: TokenInfo | None = TokenInfo(SCOPE, NOW + 3600)
        self.away = False
        self.asked: list[str] = []
        self.asking = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def fetch_token_info(self, token: str) -> TokenInfo | None:
        """Return what was prepared when the question came."""
        self.asked.append(token)
        said = self.said
        self.asking.set()
        await self.gate.wait()
        if self.away:
            raise UpstreamUnreachableError("iam: away")
        return said


class World:
    """A verifier, its IAM, a clock held by hand, and what other replicas were told."""

    def __init__(self, ttl_s: float = 300.0, grace_s: float = 0.0) -> None:
        self.iam = Iam()
        self.now = NOW
        self.told: list[str] = []
        self.verifier = TokenVerifier(
            self.iam, trust=TrustPeriod(ttl_s, grace_s), publish_tags=self._tell, clock=lambda: self.now
        )

    async def _tell(self, scopes: list[str]) -> None:
        self.told += scopes

    async def good(self, digest: str = "t") -> bool:
        """Return whether the token is one to IAM."""
        return await self.verifier.verify_token("token", digest) is not None


async def test_a_token_is_asked_about_once() -> None:
    """Until its verdict's time is over, nobody asks IAM again."""
    world = World()
    assert await world.good()
    world.now += 299.0
    assert await world.good()
    assert len(world.iam.asked) == 1
    world.now += 1.0
    assert await world.good()
    assert len(world.iam.asked) == 2


async def test_callers_at_once_share_one_question() -> None:
    """Fifty requests with a new token are one question to IAM."""
    world = World()
    world.iam.gate.clear()
    asking = [asyncio.ensure_future(world.good()) for _ in range(50)]
    await world.iam.asking.wait()
    world.iam.gate.set()
    assert all(await asyncio.gather(*asking))
    assert len(world.iam.asked) == 1


async def test_with_a_lifetime_of_zero_every_request_asks() -> None:
    """`verdict_ttl_s` 0 leaves no moment in which a revoked token is believed."""
    world = World(ttl_s=0.0)
    assert await world.good()
    world.iam.said = None
    assert not await world.good()


async def test_a_verdict_ends_with_its_token() -> None:
    """However long verdicts are believed, one is not past `expires_at`, and IAM being away changes nothing in that."""
    world = World(ttl_s=10_000.0, grace_s=10_000.0)
    assert await world.good()
    world.now += 3600.0
    world.iam.away = True
    with pytest.raises(UpstreamUnreachableError):
        await world.good()


async def test_a_token_that_ended_is_refused_whatever_iam_says() -> None:
    """A verdict that comes after the token's end is none."""
    world = World()
    world.iam.said = TokenInfo(SCOPE, NOW)
    assert not await world.good()


async def test_a_refusal_is_remembered_briefly() -> None:
    """A flood of one bad token is one question in ten seconds."""
    world = World()
    world.iam.said = None
    for _ in range(100):
        assert not await world.good()
    assert len(world.iam.asked) == 1
    world.iam.said = TokenInfo(SCOPE, NOW + 3600)
    world.now += REJECTED_TOKEN_TTL_S
    assert await world.good()


async def test_while_iam_is_away_a_verdict_outlives_its_time_by_the_grace() -> None:
    """What was verified goes on for `verdict_grace_s`, and then no longer."""
    world = World(ttl_s=300.0, grace_s=60.0)
    assert await world.good()
    world.iam.away = True
    world.now += 359.0
    assert await world.good()
    world.now += 1.0
    with pytest.raises(UpstreamUnreachableError):
        await world.good()


async def test_without_grace_a_verdict_ends_on_time_though_iam_is_away() -> None:
    """By default nothing is believed for longer than `verdict_ttl_s`."""
    world = World()
    assert await world.good()
    world.iam.away = True
    world.now += 300.0
    with pytest.raises(UpstreamUnreachableError):
        await world.good()


async def test_a_dropped_verdict_is_asked_for_again_and_replicas_hear_of_it() -> None:
    """After a 401 the token has to be verified anew, here and elsewhere."""
    world = World()
    assert await world.good()
    await world.verifier.revoke_token("t")
    assert world.told == ["token:t"]
    world.iam.said = None
    assert not await world.good()


async def test_a_made_up_token_makes_no_replica_talk() -> None:
    """A 401 for a token that nobody had verified is told to nobody, unless an operator orders it."""
    world = World()
    await world.verifier.revoke_token("t")
    assert world.told == []
    await world.verifier.revoke_token("t", force=True)
    assert world.told == ["token:t"]


async def test_another_replica_drops_a_verdict() -> None:
    """What another replica was told of a token counts here; other scopes leave verdicts alone."""
    world = World()
    assert await world.good()
    world.verifier.apply_invalidation(["all", "partition:t", "token:other"])
    assert await world.good()
    assert len(world.iam.asked) == 1
    world.verifier.apply_invalidation(["token:t"])
    assert await world.good()
    assert len(world.iam.asked) == 2


async def test_after_missed_messages_verdicts_are_asked_for_anew() -> None:
    """A replica that lost touch asks IAM again, and believes what it had only while IAM is away."""
    world = World()
    assert await world.good()
    world.verifier.apply_invalidation(None)
    world.iam.away = True
    assert await world.good()
    world.iam.away, world.iam.said = False, None
    assert not await world.good()
    assert len(world.iam.asked) == 3


async def test_a_verdict_that_was_under_way_when_it_was_dropped_is_not_kept() -> None:
    """1. A asks. 2. The token is revoked. 3. IAM's answer to A, from before 2, arrives: B asks for itself."""
    world = World()
    world.iam.gate.clear()
    first = asyncio.ensure_future(world.good())
    await world.iam.asking.wait()
    await world.verifier.revoke_token("t", force=True)
    world.iam.said = None
    second = asyncio.ensure_future(world.good())
    world.iam.gate.set()
    assert await first
    assert not await second
    assert not await world.good()


async def test_a_caller_that_leaves_does_not_cancel_the_question() -> None:
    """Whoever else waits for the verdict gets it."""
    world = World()
    world.iam.gate.clear()
    first, second = asyncio.ensure_future(world.good()), asyncio.ensure_future(world.good())
    await world.iam.asking.wait()
    first.cancel()
    world.iam.gate.set()
    assert await second
    await asyncio.gather(first, return_exceptions=True)
    assert len(world.iam.asked) == 1
    await world.verifier.close()


async def test_tokens_that_others_make_up_cost_a_good_one_nothing() -> None:
    """While IAM is asked about a good token the upstream refuses others, and the verdict is kept all the same."""
    world = World()
    world.iam.gate.clear()
    asking = asyncio.ensure_future(world.good())
    await world.iam.asking.wait()
    for number in range(3):
        await world.verifier.revoke_token(f"made-up-{number}")
    world.iam.gate.set()
    assert await asking
    assert await world.good()
    assert len(world.iam.asked) == 1


async def test_a_question_that_failed_is_asked_again() -> None:
    """Nothing of it is left behind: the next caller asks, and its verdict is kept."""
    world = World()
    world.iam.away = True
    with pytest.raises(UpstreamUnreachableError):
        await world.good()
    world.iam.away = False
    assert await world.good()
    assert await world.good()
    assert len(world.iam.asked) == 2


async def test_a_clock_that_is_set_back_makes_no_verdict_last_longer() -> None:
    """Nobody knows how old it is then, so IAM is asked anew, once."""
    world = World()
    assert await world.good()
    world.now -= 3000.0
    assert await world.good()
    assert await world.good()
    assert len(world.iam.asked) == 2
