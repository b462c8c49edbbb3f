"""Single resources on two replicas: one fetch, and what one writes the other shows."""

from __future__ import annotations

import asyncio

import aiohttp
import orjson
import pytest

from proxy.demo.app import ImsLookalike, RecordedCall
from proxy.demo.catalogue import Catalogue
from proxy.demo.seed import generate_images
from proxy.runtime.app import RunningProxy
from tests.support.bounded import bounded
from tests.support.redis import RedisServer
from tests.support.replicas import replicas, settings
from tests.support.trace import PROJECTS, TOKENS

__all__ = ["bounded"]

TOKEN = next(token for token, caller in TOKENS.items() if caller.project == PROJECTS[0])
PATCH_TYPE = "application/openstack-images-v2.1-json-patch"
SCHEMA = "/v2/schemas/image"


async def got(client: aiohttp.ClientSession, proxy: RunningProxy, target: str) -> tuple[dict[str, object], str]:
    """Return the answer of *proxy* and what it says of where it is from."""
    async with client.get(f"{proxy.url}{target}", headers={"X-Auth-Token": TOKEN}) as response:
        assert response.status == 200
        return orjson.loads(await response.read()), response.headers["Cache-Status"]


async def renamed(client: aiohttp.ClientSession, proxy: RunningProxy, target: str, name: str) -> None:
    """Rename an image through *proxy*."""
    change = orjson.dumps([{"op": "replace", "path": "/name", "value": name}])
    fields = {"X-Auth-Token": TOKEN, "Content-Type": PATCH_TYPE}
    async with client.patch(f"{proxy.url}{target}", data=change, headers=fields) as response:
        assert response.status == 200


async def test_what_one_replica_writes_the_other_shows(redis: RedisServer) -> None:
    """Law 8 for an image's own answer, though both have it in memory, in turn and ten times."""
    (image,) = [
        each.with_changes(now=0, visibility="private") for each in generate_images(1, seed=3, owners=PROJECTS[:1])
    ]
    async with (
        ImsLookalike(Catalogue([image]), TOKENS) as upstream,
        replicas(2, settings(upstream.base_url, store=redis.url)) as proxies,
        aiohttp.ClientSession() as client,
    ):
        target = f"/v2/images/{image.id}"
        for number in range(10):
            for proxy in proxies:
                await got(client, proxy, target)
                assert "; hit" in (await got(client, proxy, target))[1]
            writer, reader = proxies[number % 2], proxies[1 - number % 2]
            await renamed(client, writer, target, f"name {number}")
            assert (await got(client, reader, target))[0]["name"] == f"name {number}"


@pytest.mark.parametrize("count", [20])
async def test_replicas_ask_once(redis: RedisServer, lookalike: ImsLookalike, count: int) -> None:
    """Whoever else wants the same waits, in its own process or in the other."""
    asked, gate = asyncio.Event(), asyncio.Event()

    async def script(_: RecordedCall) -> None:
        asked.set()
        await gate.wait()

    lookalike.response_hook = script
    async with (
        replicas(2, settings(lookalike.base_url, store=redis.url)) as proxies,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client,
        asyncio.timeout(60),
    ):
        callers = [asyncio.create_task(got(client, proxies[number % 2], SCHEMA)) for number in range(count)]
        await asked.wait()
        gate.set()
        answers = await asyncio.gather(*callers)
        assert len({orjson.dumps(body) for body, _ in answers}) == 1
    assert len(lookalike.calls) == 1
