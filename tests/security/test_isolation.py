"""Whatever two requests differ in that says who is asking: no byte of one's images is in the other's answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.demo.server import Call, Lookalike
from tests.harness.iam import IamLookalike, Token, of_project
from tests.web.conftest import Proxy, a_proxy

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
QUERIES = ["", "limit=3", "visibility=private&limit=3", "limit=3&sort_key=name", "name=x", "limit=0"]
LINES: list[tuple[tuple[str, str], ...]] = [
    (),
    (("X-Project-Id", "a1"),),
    (("X-Roles", "admin"),),
    (("X-Api-Version", "Q"),),
    (("Cache-Control", "no-cache"),),
]


def identity(token: str, path: str) -> object:
    """Return who *token* is as far as lists at *path* may be shared."""
    scope = SCOPES[token]
    user = scope.user if path == "/v2/cloudimages" or not scope.scope else None
    return (json.dumps(scope.scope, sort_keys=True), scope.roles, user)


@dataclass
class World:
    """A proxy before an upstream that writes on every image whose token it was fetched with."""

    proxy: Proxy
    upstream: Lookalike
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    number: int = 0

    async def signed(self, call: Call) -> web.StreamResponse:
        """Answer *call* with images that say who asked."""
        self.arrived.set()
        await self.gate.wait()
        token = call.headers["X-Auth-Token"]
        images = [{"id": f"i{n}", "name": f"image of <{token}>", "visibility": "private"} for n in range(3)]
        return web.json_response({"images": images})

    async def asked(self, token: str, path: str, query: str, lines: tuple[tuple[str, str], ...]) -> bytes:
        """Return what the caller with *token* is answered, for a listing that only this example asks for."""
        target = f"{path}?{query}{'&' if query else ''}tag=example-{self.number}"
        return (await self.proxy.client.ask(target, token=token, fields=lines)).body


@pytest.fixture(params=["token", "project"])
async def world(request: pytest.FixtureRequest, upstream: Lookalike, iam: IamLookalike) -> AsyncIterator[World]:
    """A world in each mode."""
    iam.tokens = dict(SCOPES)
    mode = {"mode": "project", "iam_url": iam.url} if request.param == "project" else {}
    cache = {"readahead": True, "ttl_s": 3600, "transient_ttl_s": 3600}
    async with a_proxy(upstream.base_url, identity=mode | {"share_public": bool(mode)}, cache=cache) as proxy:
        made = World(proxy, upstream)
        upstream.script = made.signed
        yield made


Asked = tuple[str, str, str, tuple[tuple[str, str], ...]]

REQUESTS = st.tuples(
    st.sampled_from(TOKENS),
    st.sampled_from(["/v2/images", "/v2/cloudimages"]),
    st.sampled_from(QUERIES),
    st.sampled_from(LINES),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(REQUESTS, REQUESTS, st.booleans())
async def test_pairs_share_no_byte_cold_warm_or_collapsed(
    world: World, one: Asked, other: Asked, at_once: bool
) -> None:
    """One after the other and at once: a list names only tokens that are the asker's own identity."""
    world.number += 1
    world.arrived.clear()
    world.gate.clear()
    asked = (one, other, one, other)
    if at_once:
        waiting = [asyncio.ensure_future(world.asked(*request)) for request in asked]
        await world.arrived.wait()
        world.gate.set()
        answers = await asyncio.gather(*waiting)
    else:
        world.gate.set()
        answers = [await world.asked(*request) for request in asked]
    for (token, path, query, _), body in zip(asked, answers, strict=True):
        named = [each for each in TOKENS if f"<{each}>".encode() in body]
        assert named or query == "limit=0", body
        assert all(identity(each, path) == identity(token, path) for each in named), (token, named)
