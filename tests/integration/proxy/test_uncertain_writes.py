"""Writes of which nobody knows how they ended, and requests that must not go up at all."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from proxy.demo.app import ImsLookalike, RecordedCall
from tests.support.running import ALPHA, Proxy
from tests.support.waiting import until

LIST = "/v2/images?limit=100"


async def an_own_image(proxy: Proxy, upstream: ImsLookalike) -> str:
    """Return an image that the list shows and its caller may delete."""
    owner = upstream.tokens[ALPHA].project
    images = (await proxy.client.ask(LIST)).json()["images"]
    return next(str(image["id"]) for image in images if image["owner"] == owner and not image["protected"])


def applied_then(upstream: ImsLookalike, image_id: str, *, hang_up: bool) -> asyncio.Event:
    """Let the upstream delete the image when it is told to, and then cut the connection, or never answer."""
    applied = asyncio.Event()

    async def script(call: RecordedCall) -> None:
        if call.method == "DELETE":
            upstream.catalogue.discard(image_id)
            applied.set()
            if hang_up:
                call.abort_connection()
            else:
                await asyncio.Event().wait()

    upstream.response_hook = script
    return applied


async def test_a_delete_whose_caller_hung_up_shows_in_lists(proxy: Proxy, upstream: ImsLookalike) -> None:
    """The upstream did it, though its answer reached nobody."""
    image_id = await an_own_image(proxy, upstream)
    applied = applied_then(upstream, image_id, hang_up=False)
    deleting = asyncio.create_task(proxy.client.ask(f"/v2/images/{image_id}", method="DELETE"))
    await applied.wait()
    deleting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await deleting

    async def gone() -> bool:
        return image_id not in (await proxy.client.ask(LIST)).ids

    await until(gone)


async def test_a_delete_whose_connection_broke_is_not_sent_again(proxy: Proxy, upstream: ImsLookalike) -> None:
    """Its caller is told that nobody knows, and the next list is a new one."""
    image_id = await an_own_image(proxy, upstream)
    applied_then(upstream, image_id, hang_up=True)
    answer = await proxy.client.ask(f"/v2/images/{image_id}", method="DELETE")
    assert answer.status == 502
    assert [call.method for call in upstream.calls].count("DELETE") == 1
    assert image_id not in (await proxy.client.ask(LIST)).ids


@pytest.mark.parametrize(("status", "done"), [(502, True), (504, True), (500, False), (503, False), (409, False)])
async def test_a_delete_that_a_gateway_lost_sight_of_counts_as_done(
    proxy: Proxy, upstream: ImsLookalike, status: int, done: bool
) -> None:
    """What stands before the API says that it did not hear the end; an error of the API's own says that it failed."""
    image_id = await an_own_image(proxy, upstream)

    async def script(call: RecordedCall) -> web.StreamResponse | None:
        return web.Response(status=status) if call.method == "DELETE" else None

    upstream.response_hook = script
    assert (await proxy.client.ask(f"/v2/images/{image_id}", method="DELETE")).status == status
    assert (await proxy.client.ask(LIST)).hit is not done


@pytest.mark.parametrize("target", ["/v2/images/abc", "/v2/images?limit=x", "/v2/images?name=a;b"])
async def test_only_if_cached_never_goes_up(proxy: Proxy, upstream: ImsLookalike, target: str) -> None:
    """What is not answered from the store is answered 504."""
    upstream.clear_recorded_calls()
    answer = await proxy.client.ask(target, Cache_Control="only-if-cached")
    assert answer.status == 504
    assert not upstream.calls
