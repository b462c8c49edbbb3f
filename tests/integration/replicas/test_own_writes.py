"""What one replica writes, every replica shows: pairs of a change and a list, under load."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager

import aiohttp
import orjson
import pytest
from redis.asyncio import Redis

from proxy.demo.app import ImsLookalike
from proxy.demo.catalogue import Catalogue
from proxy.demo.seed import generate_images
from proxy.runtime.app import RunningProxy
from tests.support.redis import RedisServer
from tests.support.replicas import replicas, settings
from tests.support.trace import PROJECTS, TOKENS

WRITER, NEIGHBOUR, READER = [token for token, caller in TOKENS.items() if caller.project == PROJECTS[0]][:3]
PATCH_TYPE = "application/openstack-images-v2.1-json-patch"
LISTS = ("/v2/images?visibility=private&limit=20", "/v2/images?limit=100", "/v2/images?sort_dir=asc&limit=40")
WORKERS = 5
WITHIN_S = 240.0


@pytest.fixture
async def own() -> AsyncIterator[ImsLookalike]:
    """An upstream with a dozen images, all of one project."""
    made = [
        image.with_changes(now=0, visibility="private") for image in generate_images(12, seed=3, owners=PROJECTS[:1])
    ]
    async with ImsLookalike(Catalogue(made), TOKENS) as started:
        yield started


async def patched(client: aiohttp.ClientSession, proxy: RunningProxy, image_id: str, name: str) -> None:
    """Rename an image through *proxy*."""
    fields = {"X-Auth-Token": WRITER, "Content-Type": PATCH_TYPE}
    change = orjson.dumps([{"op": "replace", "path": "/name", "value": name}])
    async with client.patch(f"{proxy.url}/v2/images/{image_id}", data=change, headers=fields) as response:
        assert response.status == 200, await response.text()


async def name_shown(client: aiohttp.ClientSession, proxy: RunningProxy, token: str, image_id: str) -> str | None:
    """Return the name that a list through *proxy* shows for an image, paging on until it is found."""
    fields = {"X-Auth-Token": token, "Accept-Encoding": "identity"}
    target: str | None = LISTS[0] if token == NEIGHBOUR else LISTS[1]
    while target is not None:
        async with client.get(f"{proxy.url}{target}", headers=fields) as response:
            assert response.status == 200, await response.text()
            answer = orjson.loads(await response.read())
        for image in answer["images"]:
            if image["id"] == image_id:
                return str(image["name"])
        target = answer.get("next")
    return None


async def pairs(
    client: aiohttp.ClientSession, proxies: Sequence[RunningProxy], mine: Sequence[str], numbers: Sequence[int]
) -> list[str]:
    """Return what was stale: each change goes through one replica, the lists at once through the other."""
    stale = []
    for number in numbers:
        image_id, name = mine[number % len(mine)], f"name {number}"
        one, other = proxies[number % 2], proxies[1 - number % 2]
        await patched(client, one, image_id, name)
        shown = await name_shown(client, other, NEIGHBOUR if number % 4 < 2 else WRITER, image_id)
        stale += [f"pair {number}: {shown!r} after {name!r}"] if shown != name else []
    return stale


async def load(client: aiohttp.ClientSession, proxies: Sequence[RunningProxy], *, seed: int) -> None:
    """List through both replicas until cancelled."""
    dice = random.Random(seed)
    while True:
        fields = {"X-Auth-Token": dice.choice((WRITER, NEIGHBOUR, READER)), "Accept-Encoding": "identity"}
        url = dice.choice(proxies).url + dice.choice(LISTS)
        async with client.get(url, headers=fields) as response:
            assert response.status == 200, await response.text()
            await response.read()
        await asyncio.sleep(0.03)


@asynccontextmanager
async def going_on(*work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Do *work* beside what the context does; whatever fails of it fails the context."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each) for each in work]
        yield
        for task in tasks:
            task.cancel()


async def cut(redis: RedisServer, *, seed: int) -> None:
    """Cut every replica's channel at moments of no order, until cancelled."""
    dice = random.Random(seed)
    async with Redis.from_url(redis.url) as client:
        while True:
            await asyncio.sleep(dice.uniform(0.05, 0.8))
            await client.client_kill_filter(_type="pubsub")


@pytest.mark.parametrize(
    ("count", "cutting", "max_bytes"),
    [
        pytest.param(1_000, False, 1 << 28, id="calm"),
        pytest.param(200, True, 1 << 28, id="channel cut"),
        pytest.param(200, False, 0, id="no memory"),
        pytest.param(200, True, 0, id="cut, no memory"),
    ],
)
async def test_no_list_is_older_than_a_change_through_another_replica(
    own: ImsLookalike, redis: RedisServer, count: int, cutting: bool, max_bytes: int
) -> None:
    """A list that is asked for after a change shows it, whichever replica took the change and whoever asks."""
    ids = [image.id for image in own.catalogue]
    each = settings(own.base_url, store=redis.url, near_ttl_s=0.4, max_bytes=max_bytes)
    connector = aiohttp.TCPConnector(limit=0)
    async with replicas(2, each) as proxies, aiohttp.ClientSession(connector=connector) as client:
        beside = [load(client, proxies, seed=seed) for seed in range(2)]
        beside += [cut(redis, seed=7)] if cutting else []
        async with asyncio.timeout(WITHIN_S), going_on(*beside):
            stale = await asyncio.gather(
                *(
                    pairs(client, proxies, ids[worker::WORKERS], range(worker, count, WORKERS))
                    for worker in range(WORKERS)
                )
            )
    assert not [each for some in stale for each in some]
