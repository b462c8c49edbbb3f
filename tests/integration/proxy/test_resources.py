"""Single resources through the whole proxy, before the look-alike."""

from __future__ import annotations

import asyncio

import orjson
import pytest
from aiohttp import web

from proxy.config.model import CacheSection, RouteSection
from proxy.config.policies import make_resource_routes
from proxy.demo.app import ImsLookalike, RecordedCall
from proxy.http.negotiation import decode
from proxy.resources.routes import IMAGES
from tests.support.running import BETA, Client, a_proxy

SCHEMA = "/v2/schemas/image"
SETTLED = ("/v2/schemas/images", "/v1/cloudimages/os_version", "/v1/cloudimages/quota")


async def an_image(client: Client) -> str:
    """Return the path of an image that is not about to change."""
    listed = await client.ask("/v2/images?status=active&limit=1")
    return f"/v2/images/{listed.ids[0]}"


@pytest.mark.parametrize("target", [SCHEMA, *SETTLED])
async def test_what_the_api_has_is_answered_from_the_store(
    client: Client, direct: Client, upstream: ImsLookalike, target: str
) -> None:
    """Byte for byte, and for one token only."""
    first, second = await client.ask(target), await client.ask(target)
    assert first.body == second.body == (await direct.ask(target)).body
    assert (first.cache_status.split("; ttl")[0], second.hit) == ("ims-proxy; fwd=uri-miss; fwd-status=200", True)
    assert second.fields["Cache-Control"].startswith("private, max-age=")
    assert second.fields["Content-Type"] == first.fields["Content-Type"]
    assert all(name in second.fields for name in ("ETag", "Age", "Date", "Vary"))
    assert not (await client.ask(target, token=BETA)).hit
    assert len(upstream.calls) == 3


async def test_an_image_is_answered_from_the_store(client: Client, direct: Client) -> None:
    """By GET and by HEAD, whole and in part, and not at all to who has it."""
    image = await an_image(client)
    first = await client.ask(image)
    again = await client.ask(image)
    assert again.hit
    assert again.body == first.body == (await direct.ask(image)).body
    head = await client.ask(image, method="HEAD")
    assert (head.status, head.body, head.hit) == (200, b"", True)
    assert head.fields["Content-Length"] == str(len(first.body))
    part = await client.ask(image, Range="bytes=0-3")
    assert (part.status, part.body, part.fields["Content-Range"]) == (
        206,
        first.body[:4],
        f"bytes 0-3/{len(first.body)}",
    )
    known = await client.ask(image, If_None_Match=first.fields["ETag"])
    assert (known.status, known.body, known.hit) == (304, b"", True)


async def test_an_answer_is_coded_for_who_accepts_it(client: Client) -> None:
    """With a tag of its own in each coding, and not where a part is asked for."""
    plain = await client.ask(SCHEMA)
    tags = {plain.fields["ETag"]}
    for coding in ("gzip", "zstd"):
        answers = [await client.ask(SCHEMA, Accept_Encoding=coding) for _ in range(3)]
        assert {answer.fields["Content-Encoding"] for answer in answers} == {coding}
        assert all(decode(answer.body, coding, max_bytes=1 << 20) == plain.body for answer in answers)
        tags |= {answer.fields["ETag"] for answer in answers}
        known = await client.ask(SCHEMA, Accept_Encoding=coding, If_None_Match=answers[0].fields["ETag"])
        assert known.status == 304
    assert len(tags) == 3
    part = await client.ask(SCHEMA, Accept_Encoding="gzip", Range="bytes=0-9")
    assert (part.status, part.body) == (206, plain.body[:10])


async def test_a_repeated_request_is_answered_before_it_is_parsed(client: Client, upstream: ImsLookalike) -> None:
    """With its age, and no longer after a write."""
    image = await an_image(client)
    await client.ask(image)
    assert all([(await client.ask(image)).hit for _ in range(5)])
    patch = b'[{"op":"replace","path":"/name","value":"renamed"}]'
    kind = "application/openstack-images-v2.1-json-patch"
    assert (await client.ask(image, method="PATCH", body=patch, Content_Type=kind)).status == 200
    assert (await client.ask(image)).json()["name"] == "renamed"


@pytest.mark.parametrize("write", ["PATCH", "DELETE", "tag"])
async def test_own_writes_are_seen(client: Client, write: str) -> None:
    """Law 8: an accepted write drops the image's own answer, whoever made it."""
    image = await an_image(client)
    before = (await client.ask(image)).json()
    assert (await client.ask(image)).hit
    if write == "DELETE":
        await client.ask(image, method="DELETE")
        assert (await client.ask(image)).status == 404
        return
    if write == "tag":
        await client.ask(f"{image}/tags/seen", method="PUT")
    else:
        patch = orjson.dumps([{"op": "replace", "path": "/name", "value": "another"}])
        kind = "application/openstack-images-v2.1-json-patch"
        await client.ask(image, method="PATCH", body=patch, Content_Type=kind)
    after = await client.ask(image)
    assert not after.hit
    assert (after.json()["name"], after.json()["tags"]) != (before["name"], before["tags"])


async def test_an_image_about_to_change_is_asked_for_each_time(client: Client, upstream: ImsLookalike) -> None:
    """Who polls for the end of an upload sees it as soon as it is there."""
    made = await client.ask("/v2/images", method="POST", body=b'{"name":"new"}', Content_Type="application/json")
    image = f"/v2/images/{made.json()['id']}"
    upstream.clear_recorded_calls()
    for _ in range(2):
        answer = await client.ask(image)
        assert answer.json()["status"] == "queued"
        assert answer.cache_status.endswith("detail=transient")
    assert len(upstream.calls) == 2


async def test_image_data_is_never_stored(upstream: ImsLookalike) -> None:
    """Not even by a route that names it."""
    routes = [{"path": "/v2/images/**", "ttl_s": 60}]

    async def script(_: RecordedCall) -> web.StreamResponse:
        return web.Response(body=b"data", headers={"Cache-Control": "public, max-age=60"})

    upstream.response_hook = script
    async with a_proxy(upstream.base_url, cache={"routes": routes}) as proxy:
        for _ in range(2):
            answer = await proxy.client.ask("/v2/images/x/file")
            assert answer.cache_status == "ims-proxy; fwd=bypass; fwd-status=200; detail=other-path"
    assert len(upstream.calls) == 2


async def test_what_is_longer_than_is_kept_is_streamed(upstream: ImsLookalike) -> None:
    """Whole, to everyone who asks, without being held here."""
    body = bytes(range(256)) * 1000

    async def script(_: RecordedCall) -> web.StreamResponse:
        return web.Response(body=body)

    upstream.response_hook = script
    async with a_proxy(upstream.base_url, cache={"max_resource_bytes": len(body) - 1}) as proxy:
        answers = await asyncio.gather(*(proxy.client.ask(SCHEMA) for _ in range(5)))
        assert all(answer.body == body for answer in answers)
        assert all(answer.cache_status.endswith("detail=body-too-large") for answer in answers)
    assert len(upstream.calls) <= 6


async def test_a_crowd_on_a_cold_resource_is_one_call(client: Client, upstream: ImsLookalike) -> None:
    """Every other caller waited for it."""
    gate, asked = asyncio.Event(), asyncio.Event()

    async def script(_: RecordedCall) -> None:
        asked.set()
        await gate.wait()

    upstream.response_hook = script
    crowd = [asyncio.create_task(client.ask(SCHEMA)) for _ in range(50)]
    async with asyncio.timeout(60):
        await asked.wait()
        gate.set()
        answers = await asyncio.gather(*crowd)
    assert {answer.status for answer in answers} == {200}
    assert len(upstream.calls) == 1


async def test_a_route_of_the_configuration_is_public_only_if_it_says_so(upstream: ImsLookalike) -> None:
    """Each route by itself; nothing else is shared beyond its partition."""
    routes = [
        {"path": "/v2/schemas/images", "ttl_s": 60, "public": True},
        {"path": "/v2/schemas/members", "ttl_s": 60},
    ]
    async with a_proxy(upstream.base_url, cache={"routes": routes}) as proxy:
        for target, shared in (("/v2/schemas/images", True), ("/v2/schemas/members", False), (SCHEMA, False)):
            await proxy.client.ask(target)
            assert (await proxy.client.ask(target)).hit
            assert (await proxy.client.ask(target, token=BETA)).hit is shared
            assert (await proxy.client.ask(target, token=None)).hit is shared


async def test_a_write_to_a_resource_drops_it(upstream: ImsLookalike) -> None:
    """RFC 9111 §4.4: its own answer and what `Location` names, once it was accepted."""
    routes = [{"path": "/own/**", "ttl_s": 60}]
    status = 500

    async def script(call: RecordedCall) -> web.StreamResponse:
        if call.method == "GET":
            return web.Response(body=b"x")
        return web.Response(status=status, headers={"Location": "/own/b"})

    upstream.response_hook = script
    async with a_proxy(upstream.base_url, cache={"routes": routes}) as proxy:
        targets = ("/own/a", "/own/b", "/own/c")
        for target in targets:
            await proxy.client.ask(target)
        await proxy.client.ask("/own/a", method="POST")
        assert [(await proxy.client.ask(target)).hit for target in targets] == [True, True, True]
        status = 201
        await proxy.client.ask("/own/a", method="POST")
        assert [(await proxy.client.ask(target)).hit for target in targets] == [False, False, True]


@pytest.mark.parametrize(
    ("order", "dropped", "left"),
    [
        (b'{"all": true}', 4, []),
        (b'{"resource": "/v2/schemas/image"}', 2, ["/v2/schemas/image?a=1", "/v2/schemas/images"]),
        (b'{"resource": "/v2/schemas/image?a=1"}', 1, [SCHEMA, "/v2/schemas/images"]),
        (b'{"resource": "/v2/schemas"}', 0, [SCHEMA, "/v2/schemas/image?a=1", "/v2/schemas/images"]),
    ],
)
async def test_a_purge_drops_resources(upstream: ImsLookalike, order: bytes, dropped: int, left: list[str]) -> None:
    """All of them with all, or the one that is named, whoever asked for it."""
    targets = (SCHEMA, "/v2/schemas/image?a=1", "/v2/schemas/images")
    async with a_proxy(upstream.base_url) as proxy:
        for target in targets:
            await proxy.client.ask(target)
        await proxy.client.ask(SCHEMA, token=BETA)
        assert (await proxy.purge(order)).json() == {"dropped": dropped}
        assert [target for target in targets if (await proxy.client.ask(target)).hit] == left
        assert (await proxy.client.ask(SCHEMA, token=BETA)).hit == (SCHEMA in left)


def test_routes_follow_from_the_settings() -> None:
    """Those of the configuration come first, each with the windows it does not name from the others."""
    section = RouteSection(path="/v2/images/*", ttl_s=5, stale_if_error_s=7)
    routes = make_resource_routes(CacheSection(ttl_s=30, stale_while_revalidate_s=3, routes=(section,)))
    own = routes.find("/v2/images/a")
    assert own is routes.routes[0]
    assert (own.policy.ttl_s, own.policy.stale_while_revalidate_s, own.policy.stale_if_error_s) == (5, 3, 7)
    assert routes.routes[1].path == IMAGES
    schema, quota = routes.find(SCHEMA), routes.find("/v1/cloudimages/quota")
    assert schema is not None
    assert quota is not None
    assert (schema.policy.ttl_s, quota.policy.ttl_s) == (3600, 30)
    assert not any(route.is_public or route.by_vary for route in routes.routes)


def test_without_a_lifetime_nothing_is_stored() -> None:
    """Where lists are not stored, neither is a resource that no route names."""
    assert make_resource_routes(CacheSection(ttl_s=0)).routes == ()


@pytest.mark.parametrize("path", ["", "v2/x", "/a b", "/a?b", "/a%20b", "/é", "/a#b"])
def test_a_route_is_a_path(path: str) -> None:
    """Neither a query nor an escape can stand in it."""
    with pytest.raises(ValueError, match="path"):
        RouteSection(path=path)
