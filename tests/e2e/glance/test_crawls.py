"""The clients that people use find through the proxy what they find without it, and the second time at no cost."""

import pytest

from tests.e2e.glance.conftest import Newcomer
from tests.support.clients.client import Client, Listing
from tests.support.glance.server import Glance
from tests.support.proxy import ProxyProcess

_PRIVATE: dict[str, str | list[str]] = {"visibility": "private"}
_PLAIN = _PRIVATE | {"tag": ["plain"]}


@pytest.mark.parametrize(
    ("page_size", "listing"),
    [
        pytest.param(7, Listing(_PRIVATE), id="7 a page"),
        pytest.param(25, Listing(_PRIVATE), id="25 a page"),
        pytest.param(100, Listing({"visibility": "shared", "member_status": "all"}), id="100 a page"),
        pytest.param(1000, Listing(_PRIVATE), id="1000 a page"),
        pytest.param(25, Listing({"status": "queued"}), id="status"),
        pytest.param(9, Listing(_PRIVATE | {"tag": ["env=prod"]}), id="a tag with an equals sign"),
        pytest.param(9, Listing(_PRIVATE | {"tag": ["中文=标签"]}), id="a tag beyond ASCII"),
        pytest.param(9, Listing(_PRIVATE | {"tag": ["two words"]}), id="a tag with a space"),
        pytest.param(5, Listing({"name": "R&D+3=100%"}), id="a name with delimiters"),
        pytest.param(5, Listing({"name": 'it\'s "3", they said; twice'}), id="a name with quotes"),
        pytest.param(5, Listing({"name": "镜像 2"}), id="a name beyond ASCII"),
        pytest.param(9, Listing({"visibility": "shared", "member_status": "pending"}), id="shared, not yet accepted"),
        pytest.param(9, Listing(_PLAIN, {"sort_key": "name", "sort_dir": "asc"}), id="by name, some without one"),
        pytest.param(9, Listing(_PLAIN, {"sort": "status:asc,name:desc"}), id="by two keys"),
    ],
)
def test_a_crawl_yields_what_it_yields_directly_and_is_free_again(
    client: Client, page_size: int, listing: Listing, *, glance: Glance, proxy: ProxyProcess, newcomer: Newcomer
) -> None:
    """The ids are those of Glance in its order, and repeating the crawl asks Glance for no list."""
    token = newcomer("alpha")
    directly = client.crawl(glance.url, token, listing, page_size=page_size)
    assert client.crawl(proxy.url, token, listing, page_size=page_size) == directly
    before = len(glance.list_calls())
    assert client.crawl(proxy.url, token, listing, page_size=page_size) == directly
    assert glance.list_calls()[before:] == []
    assert len(directly) == len(set(directly)) > min(page_size, 100)


@pytest.mark.parametrize("client", ["with_glanceclient"], indirect=True)
def test_a_crawl_past_the_longest_page_is_whole(
    client: Client, glance: Glance, proxy: ProxyProcess, newcomer: Newcomer
) -> None:
    """All that alpha may see, more than Glance gives in one answer, comes in order at 1000 a page."""
    token = newcomer("alpha")
    directly = client.crawl(glance.url, token, Listing(), page_size=1000)
    assert len(directly) > 1000
    assert client.crawl(proxy.url, token, Listing(), page_size=1000) == directly


@pytest.mark.parametrize("client", ["with_openstacksdk"], indirect=True)
def test_openstacksdk_discovers_the_api_at_the_root_of_the_proxy(
    client: Client, glance: Glance, proxy: ProxyProcess, newcomer: Newcomer
) -> None:
    """Given the proxy's root as its endpoint override, it reads the versions there and lists through the proxy."""
    before = len(glance.requests())
    listing = Listing({"visibility": "private", "name": "镜像 2"})
    assert client.crawl(proxy.url, newcomer("beta"), listing, page_size=2)
    asked = glance.requests()[before:]
    assert "GET /" in asked
    assert any(line.startswith("GET /v2/images?") for line in asked)
