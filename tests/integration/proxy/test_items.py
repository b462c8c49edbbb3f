"""Images out of fresh lists, where the configuration says so."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from proxy.demo.app import ImsLookalike
from tests.support.running import BETA, Client, Proxy, a_proxy

LIST = "/v2/images?status=active&limit=5"
FROM_LIST = "detail=item-from-list"


@pytest.fixture
async def proxy(upstream: ImsLookalike) -> AsyncIterator[Proxy]:
    """A proxy that takes images out of lists."""
    async with a_proxy(upstream.base_url, cache={"item_from_list": True, "readahead": False}) as started:
        yield started


async def test_an_image_in_a_fresh_list_costs_no_call(client: Client, direct: Client, upstream: ImsLookalike) -> None:
    """Byte for byte what the upstream gives, with the list's age and what is left of its lifetime."""
    ids = (await client.ask(LIST)).ids
    for image_id in (ids[0], ids[-1]):
        image = f"/v2/images/{image_id}"
        answer = await client.ask(image)
        assert answer.cache_status.startswith("ims-proxy; hit; ttl=")
        assert answer.cache_status.endswith(FROM_LIST)
        assert answer.body == (await direct.ask(image)).body
        assert answer.fields["Content-Type"] == "application/json; charset=UTF-8"
        assert answer.fields["Cache-Control"].startswith("private, max-age=")
        known = await client.ask(image, If_None_Match=answer.fields["ETag"])
        assert known.status == 304
    assert len(upstream.calls) == 3  # the list, and the two that were asked for directly


@pytest.mark.parametrize(
    "fields",
    [{"token": BETA}, {"X_Api_Version": "A"}, {"Cache_Control": "no-cache"}],
    ids=["another token", "another form of the API", "a caller that wants none stored"],
)
async def test_a_list_answers_only_for_its_own(client: Client, fields: dict[str, str]) -> None:
    """The partition, the form of the API, and what the caller demands are looked at as ever."""
    image = f"/v2/images/{(await client.ask(LIST)).ids[0]}"
    assert FROM_LIST not in (await client.ask(image, **fields)).cache_status  # type: ignore[arg-type]
    assert (await client.ask(image)).hit


async def test_what_no_list_has_is_fetched(client: Client) -> None:
    """And then stands on its own."""
    ids = (await client.ask(LIST)).ids
    later = (await client.ask(f"{LIST}0&marker={ids[-1]}", token=BETA)).json()["images"]
    image = f"/v2/images/{next(each['id'] for each in later if each['visibility'] == 'public')}"
    assert FROM_LIST not in (await client.ask(image)).cache_status


async def test_a_write_is_seen(client: Client) -> None:
    """A list from before it answers nothing any more, and no page of it does."""
    image = f"/v2/images/{(await client.ask(LIST)).ids[0]}"
    await client.ask(f"{image}/tags/seen", method="PUT")
    answer = await client.ask(image)
    assert FROM_LIST not in answer.cache_status
    assert "seen" in answer.json()["tags"]


async def test_an_image_about_to_change_is_asked_for(client: Client) -> None:
    """Its list may be held, it is not."""
    made = await client.ask("/v2/images", method="POST", body=b'{"name":"new"}', Content_Type="application/json")
    image_id = made.json()["id"]
    assert image_id in (await client.ask("/v2/images?status=queued&limit=500")).ids
    assert "detail=transient" in (await client.ask(f"/v2/images/{image_id}")).cache_status


async def test_it_is_off_unless_it_is_switched_on(upstream: ImsLookalike) -> None:
    """An upstream whose lists say less of an image is not found out by surprise."""
    async with a_proxy(upstream.base_url) as proxy:
        image = f"/v2/images/{(await proxy.client.ask(LIST)).ids[0]}"
        assert not (await proxy.client.ask(image)).hit
