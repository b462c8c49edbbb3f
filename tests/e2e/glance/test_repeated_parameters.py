"""Glance's own `next` drops all but the last of a repeated parameter; the proxy's keeps them, so a crawl stays true."""

import pytest

from tests.e2e.glance.conftest import Newcomer
from tests.e2e.glance.paging import Parameters, by_links, by_markers, target
from tests.support.glance.server import Glance
from tests.support.proxy import ProxyProcess

_PRIVATE = ("visibility", "private")
_LIMIT = "12"


@pytest.mark.parametrize(
    "parameters",
    [
        pytest.param(
            [_PRIVATE, ("sort_key", "status"), ("sort_key", "name"), ("sort_dir", "asc"), ("sort_dir", "desc")],
            id="two sort keys, a direction each",
        ),
        pytest.param(
            [("sort_key", "disk_format"), _PRIVATE, ("sort_key", "id"), ("sort_dir", "asc")],
            id="two sort keys, one direction",
        ),
        pytest.param([("tag", "env=prod"), ("tag", "plain")], id="two tags"),
        pytest.param([("status", "queued"), _PRIVATE, ("status", "active")], id="two states, the last of which counts"),
    ],
)
def test_following_next_keeps_what_is_repeated(
    parameters: Parameters, glance: Glance, proxy: ProxyProcess, newcomer: Newcomer
) -> None:
    """A crawl by links through the proxy shows what Glance shows to who repeats every parameter on every page."""
    token = newcomer("delta")
    paged = [*parameters, ("limit", _LIMIT)]
    expected = by_markers(glance.url, paged, token)
    assert len(expected) > int(_LIMIT)
    assert by_links(proxy.url, target(paged), token) == expected
    assert by_links(proxy.url, target(paged), token) == expected


def test_glance_alone_loses_a_tag_on_the_second_page(glance: Glance, newcomer: Newcomer) -> None:
    """The defect that the proxy repairs is there; once this fails, the repair has lost its reason."""
    token = newcomer("delta")
    paged = [("tag", "env=prod"), ("tag", "plain"), ("limit", _LIMIT)]
    assert by_links(glance.url, target(paged), token) != by_markers(glance.url, paged, token)
