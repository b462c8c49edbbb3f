"""Whatever two requests differ in that says who is asking: no byte of one's images is in the other's answer."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.demo.app import ImsLookalike, RecordedCall
from proxy.demo.seed import TOKENS as DEMO_TOKENS
from proxy.demo.seed import make_demo_catalogue
from tests.support.iam import IamLookalike, Token, of_project
from tests.support.redis import RedisServer
from tests.support.running import Answer, Proxy, a_proxy

USERS = [
    (token_of, scope_of)
    for token_of, scope_of in {
        "t-a1-member": of_project("a1", user="u1"),
        "t-a1-member-2": of_project("a1", user="u2"),
        "t-a1-reader": of_project("a1", user="u1", roles=("reader",)),
        "t-a1-both": of_project("a1", user="u1", roles=("member", "reader")),
        "t-a1-d2": of_project("a1", user="u1", domain="d2"),
        "t-a11-member": of_project("a11", user="u1"),
        "t-b-member": of_project("b", user="u1"),
        "t-domain": Token("u1", {"domain": {"id": "d1"}}),
        "t-domain-a1": Token("u1", {"domain": {"id": "a1"}}),
        "t-unscoped": Token("u1", {}),
        "t-unscoped-a1": Token("a1", {}),
    }.items()
]
TOKENS = [token for token, _ in USERS]
SCOPES = dict(USERS)
LISTS = ("/v2/images", "/v2/cloudimages")
PATHS = [*LISTS, "/v2/images/{image}", "/v1/cloudimages/os_version"]
OF_A_USER = ("/v2/cloudimages", "/v1/cloudimages/os_version")
QUERIES = ["", "limit=3", "visibility=private&limit=3", "limit=3&sort_key=name", "name=x", "limit=0"]
LINES: list[tuple[tuple[str, str], ...]] = [
    (),
    (("X-Project-Id", "a1"),),
    (("X-Roles", "admin"),),
    (("X-Api-Version", "Q"),),
    (("Cache-Control", "no-cache"),),
]


Asked = tuple[str, str, str, tuple[tuple[str, str], ...]]


def identity(token: str, path: str) -> object:
    """Return who *token* is as far as lists at *path* may be shared."""
    scope = SCOPES[token]
    user = scope.user if path in OF_A_USER or not scope.scope else None
    return (json.dumps(scope.scope, sort_keys=True), scope.roles, user)


@dataclass
class World:
    """A proxy before an upstream that writes on every image whose token it was fetched with."""

    proxy: Proxy
    upstream: ImsLookalike
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    failing: bool = False
    number: int = 0

    async def signed(self, call: RecordedCall) -> web.StreamResponse:
        """Answer *call* with images that say who asked."""
        self.arrived.set()
        await self.gate.wait()
        if self.failing:
            return web.json_response({}, status=503)
        token = call.headers["X-Auth-Token"]
        images = [
            {"id": self.image(position), "name": f"image of <{token}>", "visibility": "private", "status": "active"}
            for position in range(3)
        ]
        is_list = call.target.partition("?")[0] in LISTS
        return web.json_response({"images": images} if is_list else images[0])

    async def asked(self, request: Asked, *, at: Proxy | None = None) -> Answer:
        """Return what *request* is answered, for a listing that only this example asks for."""
        token, path, query, lines = request
        tag = f"tag=example-{self.number}"
        asked = f"{query}{'&' if query else ''}{tag}" if path in LISTS else tag
        target = f"{path.format(image=self.image(0))}?{asked}"
        return await (at or self.proxy).client.ask(target, token=token, fields=lines)

    def image(self, position: int) -> str:
        """Return the id that an image has in this example alone: an answer of before is no answer to it."""
        return f"i{position}-{self.number}"

    def begin(self) -> None:
        """Begin an example: nobody has asked for its listings."""
        self.number += 1
        self.failing = False
        self.arrived.clear()
        self.gate.set()


@asynccontextmanager
async def a_world(
    mode: str, upstream: ImsLookalike, iam: IamLookalike, *, cache: dict[str, Any], **sections: dict[str, Any]
) -> AsyncIterator[World]:
    """Run a world in that mode, its lists kept as *cache* says."""
    iam.tokens = dict(SCOPES)
    identity = {"mode": "project", "iam_url": iam.url, "share_public": True} if mode == "project" else {}
    async with a_proxy(upstream.base_url, identity=identity, cache={"readahead": True} | cache, **sections) as proxy:
        made = World(proxy, upstream)
        upstream.response_hook = made.signed
        yield made


@pytest.fixture(params=["token", "project"])
async def world(request: pytest.FixtureRequest, upstream: ImsLookalike, iam: IamLookalike) -> AsyncIterator[World]:
    """A world in each mode, where lists stay fresh."""
    async with a_world(request.param, upstream, iam, cache={"ttl_s": 3600, "transient_ttl_s": 3600}) as made:
        yield made


@pytest.fixture(params=["token", "project"])
async def stale_world(
    request: pytest.FixtureRequest, upstream: ImsLookalike, iam: IamLookalike
) -> AsyncIterator[World]:
    """A world in each mode, where lists are stale at once; they may be given while they are fetched anew for 3 ms."""
    cache = {"ttl_s": 0.001, "transient_ttl_s": 0.001, "stale_while_revalidate_s": 0.003, "negative_ttl_s": 0}
    async with a_world(request.param, upstream, iam, cache=cache) as made:
        yield made


SHAPES = st.tuples(st.sampled_from(PATHS), st.sampled_from(QUERIES), st.sampled_from(LINES))


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Asked, Asked]:
    """Two requests; more often than not they differ in who asks alone, for only then could they share."""
    one = draw(SHAPES)
    other = draw(SHAPES) if draw(st.integers(0, 3)) == 0 else one
    return (draw(st.sampled_from(TOKENS)), *one), (draw(st.sampled_from(TOKENS)), *other)


FEW = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def told_apart(asked: Sequence[Asked], answers: Sequence[Answer]) -> int:
    """Assert that each list names tokens of the asker's own identity alone, and return how many lists there are."""
    lists = [(each, answer.body) for each, answer in zip(asked, answers, strict=True) if answer.status == 200]
    for (token, path, query, _), body in lists:
        named = [each for each in TOKENS if f"<{each}>".encode() in body]
        assert named or query == "limit=0", body
        assert all(identity(each, path) == identity(token, path) for each in named), (token, named)
    return len(lists)


@FEW
@given(pairs(), st.booleans())
async def test_pairs_share_no_byte_cold_warm_or_collapsed(
    world: World, pair: tuple[Asked, Asked], at_once: bool
) -> None:
    """One after the other and at once: a list names only tokens that are the asker's own identity."""
    world.begin()
    asked = pair * 2
    if at_once:
        world.gate.clear()
        waiting = [asyncio.ensure_future(world.asked(request)) for request in asked]
        await world.arrived.wait()
        world.gate.set()
        answers = await asyncio.gather(*waiting)
    else:
        answers = [await world.asked(request) for request in asked]
    assert told_apart(asked, answers) == 4


@FEW
@given(pairs(), st.booleans())
async def test_pairs_share_no_byte_that_is_stale(stale_world: World, pair: tuple[Asked, Asked], failing: bool) -> None:
    """What is given of a list that went stale, with an upstream that answers or one that fails, is the asker's own."""
    world = stale_world
    world.begin()
    asked = pair * 2
    answers = [await world.asked(request) for request in asked[:2]]
    world.failing = failing
    answers += await asyncio.gather(*(world.asked(request) for request in asked[2:]))
    lists = told_apart(asked, answers)
    assert lists == 4 or (failing and any(query == "limit=0" or lines for _, _, query, lines in asked))


@pytest.mark.parametrize("mode", ["token", "project"])
async def test_a_redis_that_restarts_mixes_nobody_up(
    mode: str, upstream: ImsLookalike, iam: IamLookalike, tmp_path: Path
) -> None:
    """Two replicas on a Redis that comes back with what it had, or with nothing: whom they ask for sees its own."""
    every = [(token, path, query, ()) for token, path, query in product(TOKENS, PATHS, QUERIES)]
    asked = random.Random(mode).choices(every, k=80)
    cache = {"ttl_s": 3600, "transient_ttl_s": 3600}
    for options in (("--appendonly", "yes", "--appendfsync", "always"), ()):
        with RedisServer(tmp_path, options=options) as redis:
            store = {"url": redis.url}
            async with (
                a_world(mode, upstream, iam, cache=cache, store=store) as another,
                a_world(mode, upstream, iam, cache=cache, store=store) as world,
            ):
                replicas = (world.proxy, another.proxy)
                world.begin()
                for replica in replicas:
                    told_apart(asked, [await world.asked(each, at=replica) for each in asked])
                redis.restart()
                for replica in reversed(replicas):
                    answers = await asyncio.gather(*(world.asked(each, at=replica) for each in asked))
                    assert told_apart(asked, answers) == len(asked)


async def test_two_upstreams_on_one_redis_share_nothing(upstream: ImsLookalike, tmp_path: Path) -> None:
    """A token that both accept is shown at each what that one has."""
    with RedisServer(tmp_path) as redis:
        sections: dict[str, Any] = {
            "store": {"url": redis.url},
            "identity": {"secret": "a secret that both proxies have"},
        }
        async with (
            ImsLookalike(make_demo_catalogue(20, seed=2), DEMO_TOKENS) as elsewhere,
            a_proxy(upstream.base_url, **sections) as here,
            a_proxy(elsewhere.base_url, **sections) as there,
        ):
            ids = [
                [image["id"] for image in (await proxy.client.ask("/v2/images?limit=5")).json()["images"]]
                for proxy in (here, there, here, there)
            ]
    assert ids[0] == ids[2]
    assert ids[1] == ids[3]
    assert set(ids[0]).isdisjoint(ids[1])
