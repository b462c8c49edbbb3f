"""Any window asked through the proxy shows what Glance shows in it."""

import json
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from tests.e2e.glance.conftest import Newcomer
from tests.e2e.glance.paging import Parameters, get, marker_of
from tests.support.glance.images import images
from tests.support.glance.server import Glance
from tests.support.http import Answer
from tests.support.proxy import ProxyProcess

_PROJECT = "alpha"
_IMAGES = images()
_SORT_KEYS = ("name", "status", "container_format", "disk_format", "size", "id", "created_at", "updated_at")
_DIRECTIONS = ("asc", "desc")
_FILTERS: list[Parameters] = [
    [("visibility", "private")],
    [("visibility", "public")],
    [("visibility", "shared"), ("member_status", "all")],
    [("member_status", "pending")],
    [("status", "queued")],
    [("status", "in:queued,deactivated")],
    [("tag", "env=prod")],
    [("tag", "plain"), ("tag", "two words")],
    [("tag", "中文=标签")],
    [("name", "R&D+3=100%")],
    [("name", 'in:"it\'s \\"3\\", they said; twice",镜像 2')],
    [("name", "same-name-4 ")],
    [("owner", "ops")],
    [("__platform", "Oracle Linux")],
    [("__imagetype", "gold"), ("protected", "true")],
    [("os_hidden", "true")],
    [("disk_format", "in:qcow2,raw")],
    [("size_min", "2")],
    [("created_at", "gte:2020-09-13T13:00:00Z")],
    [("created_at", "lt:2020-09-13 13:00:00")],
    [("__of_nobody", "1")],
]


def _escape_all(value: str) -> str:
    return "".join(f"%{byte:02x}" for byte in value.encode())


_ESCAPES: st.SearchStrategy[Callable[[str], str]] = st.sampled_from([quote, quote_plus, _escape_all])


def _sorts() -> st.SearchStrategy[Parameters]:
    key = st.tuples(st.just("sort_key"), st.sampled_from(_SORT_KEYS))
    direction = st.tuples(st.just("sort_dir"), st.sampled_from(_DIRECTIONS))
    pair = st.builds(":".join, st.tuples(st.sampled_from(_SORT_KEYS), st.sampled_from(_DIRECTIONS)))
    together = st.lists(pair, min_size=1, max_size=2, unique=True).map(lambda pairs: [("sort", ",".join(pairs))])
    return st.one_of(
        st.just([]),
        st.tuples(key, direction).map(list),
        st.tuples(key, st.just(("sort_key", "id")), direction, direction).map(list),
        together,
    )


def _limits() -> st.SearchStrategy[Parameters]:
    odd = st.sampled_from(["0", "0010", "+1", "1_0", "abc"])
    plain = st.integers(1, 60).map(str)
    value = st.one_of(plain, plain, plain, odd, st.just("150"))
    return st.one_of(st.just([]), value.map(lambda limit: [("limit", limit)]))


def _markers() -> st.SearchStrategy[Parameters]:
    mine = [image.id for image in _IMAGES if not image.deleted and _PROJECT in {image.owner, *image.members}]
    public = [image.id for image in _IMAGES if image.visibility == "public" and not image.deleted]
    refused = [
        image.id for image in _IMAGES if image.deleted or (image.visibility == "private" and image.owner == "beta")
    ]
    value = st.one_of(*map(st.sampled_from, (mine, public, public, public, refused)))
    return st.one_of(st.just([]), value.map(lambda marker: [("marker", marker)]))


@st.composite
def visits(draw: st.DrawFn) -> list[str]:
    """Draw up to four windows onto one listing, as list targets: each with its own order of parameters and escapes."""
    filters = draw(st.lists(st.sampled_from(_FILTERS), max_size=2))
    listing = [parameter for part in (*filters, draw(_sorts())) for parameter in part]
    windows = draw(st.lists(st.tuples(_limits(), _markers()), min_size=2, max_size=4))
    return [_target(draw, [*listing, *limit, *marker]) for limit, marker in windows]


def _target(draw: st.DrawFn, parameters: Parameters) -> str:
    """Draw a spelling of *parameters* in which repeated ones keep their order, as that of sort keys matters."""
    escape = draw(_ESCAPES)
    names = draw(st.permutations([name for name, _ in parameters]))
    values = {name: iter([value for other, value in parameters if other == name]) for name in names}
    query = "&".join(f"{name}={escape(next(values[name]))}" for name in names)
    return f"/v2/images?{query}" if query else "/v2/images"


@pytest.fixture(scope="module")
def token(newcomer: Newcomer) -> str:
    """One caller for all windows, so that later ones meet the spans of earlier ones."""
    return newcomer(_PROJECT)


_BY_SIZE = "/v2/images?visibility=private&sort_key=size&sort_dir=asc"
_UNSIZED = next(
    image.id for image in _IMAGES if (image.owner, image.visibility, image.size) == (_PROJECT, "private", None)
)
"""Where Glance's own order breaks down: after it, a page holds what a longer page does not."""


@given(targets=visits())
@example(targets=["/v2/images?limit=5000&visibility=private", "/v2/images?limit=7&visibility=private"])
@example(targets=["/v2/images?name=%FF", "/v2/images?limit=3;tag=plain", "/v2/images?limit=3&tag=plain"])
@example(targets=[f"{_BY_SIZE}&limit=200", f"{_BY_SIZE}&limit=5&marker={_UNSIZED}", f"{_BY_SIZE}&limit=60"])
@settings(max_examples=25, deadline=None, database=None, phases=(Phase.explicit, Phase.generate))
def test_a_window_through_the_proxy_is_the_window_itself(
    targets: list[str], token: str, glance: Glance, proxy: ProxyProcess
) -> None:
    """Status, images to the last key, and where the next page starts are the same, also when asked again."""
    directly = [_seen(get(glance.url, target, token)) for target in targets]
    assert [_seen(get(proxy.url, target, token)) for target in targets] == directly
    assert [_seen(get(proxy.url, target, token)) for target in targets] == directly


def _seen(answer: Answer) -> tuple[int, str, str | None]:
    """Return what must be equal: the status, the images as they are written, and the marker in `next`, if any."""
    if answer.status != 200:
        return answer.status, "", None
    page = answer.json()
    link = page.get("next")
    return 200, json.dumps(page["images"], ensure_ascii=False), None if link is None else marker_of(link)
