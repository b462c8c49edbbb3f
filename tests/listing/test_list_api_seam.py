"""A list API is data: one entry in `LIST_APIS` and its lists are cached, cut and paged."""

from __future__ import annotations

import orjson
import pytest

from proxy.core.freshness import Lifetimes
from proxy.core.list_api import LIST_APIS, ListApi, ParameterRole
from proxy.core.list_query import parse_list_query
from proxy.core.messages import Fields, Request, Response
from proxy.core.partition import Partitioner
from proxy.core.routes import Route, classify_path
from proxy.listing.rendering import render_page
from proxy.listing.request import LifetimeRules, ListRequest, ListRules, PageSizes, parse_list_request, to_public_list
from tests.support.listings import ROWS, SECRET, MakeWorld, ScriptedUpstream, World
from tests.support.model import Model

FLAVORS = ListApi(
    "/v2.1/flavors/detail",
    collection="flavors",
    schema=None,
    item_path=None,
    gives_next=False,
    default_limit=40,
    has_public_items=False,
    parameters={
        "limit": ParameterRole.WINDOW,
        "marker": ParameterRole.WINDOW,
        "sort_key": ParameterRole.SORT,
        "sort_dir": ParameterRole.SORT,
    },
    query_defaults=(("sort_key", "id"), ("sort_dir", "asc")),
)


@pytest.fixture(autouse=True)
def flavors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LIST_APIS, FLAVORS.path, FLAVORS)


class FlavorsUpstream(ScriptedUpstream):
    """Names its array `flavors` and gives no `next`."""

    def list_for(self, target: str) -> Response:
        images = orjson.loads(super().list_for(target).body)["images"]
        links = [{"rel": "self", "href": f"https://nova.example/{each['id']}"} for each in images]
        flavors = [{**each, "links": [link]} for each, link in zip(images, links, strict=True)]
        return Response(200, Fields(), orjson.dumps({"flavors": flavors}))


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return make_world(upstream=FlavorsUpstream(Model(ROWS)))


async def test_windows_of_another_api_are_cut_from_one_fetch(world: World) -> None:
    """What was fetched once answers every window inside it, in the shape of that API, and its items are unchanged."""
    path = FLAVORS.path
    assert await world.ids("limit=60", path=path) == ROWS[:60]
    assert world.upstream.targets == ["/v2.1/flavors/detail?limit=60"]
    assert await world.ids("limit=5&marker=i002&sort_key=id", path=path) == ROWS[3:8]
    assert await world.ids(path=path) == ROWS[:40]
    assert len(world.upstream.targets) == 1

    request = world.ask("limit=2", path=path)
    result = await world.gateway.answer(request)
    assert result.page is not None
    body = orjson.loads(render_page(result.page, request.key, request.window, "https://proxy.example"))
    assert body == {
        "flavors": [
            {"id": each, "links": [{"rel": "self", "href": f"https://nova.example/{each}"}]} for each in ROWS[:2]
        ]
    }


async def test_only_an_empty_page_ends_a_list_without_next(world: World) -> None:
    assert await world.ids("limit=100&marker=i099", path=FLAVORS.path) == ROWS[100:]
    assert await world.ids("limit=100&marker=i119", path=FLAVORS.path) == ()
    assert len(world.upstream.targets) == 2


async def test_its_lists_are_kept_apart_from_those_of_images(world: World) -> None:
    """The same query of two APIs makes two listings."""
    await world.ids("limit=3", path=FLAVORS.path)
    assert world.ask("limit=3", path=FLAVORS.path).key != world.ask("limit=3").key


def test_its_parameters_have_their_own_roles() -> None:
    """`tag` matches all of its values in Glance; elsewhere it is a filter whose order may count."""
    assert parse_list_query("tag=b&tag=a", FLAVORS) != parse_list_query("tag=a&tag=b", FLAVORS)
    assert parse_list_query("sort_key=id&sort_dir=asc", FLAVORS) == parse_list_query("", FLAVORS)
    assert classify_path(FLAVORS.path) is Route.LIST


@pytest.mark.parametrize("use_cloudimages", [False, True])
def test_rules_for_images_do_not_reach_it(use_cloudimages: bool) -> None:
    """It is never fetched from `/v2/cloudimages`, and a filter called `visibility` does not make its list public."""
    rules = ListRules(
        Partitioner(SECRET),
        PageSizes(),
        LifetimeRules(Lifetimes(60.0)),
        use_cloudimages=use_cloudimages,
        share_public=True,
    )
    request = parse_list_request(
        Request("GET", f"{FLAVORS.path}?visibility=public", Fields([("X-Auth-Token", "alpha")]), "request-id"), rules
    )
    assert isinstance(request, ListRequest)
    assert request.upstream_api is FLAVORS
    assert to_public_list(request, rules) is None
