"""How many calls a crawl costs Glance, and that another way of writing it costs none."""

import pytest

from tests.e2e.glance.conftest import Newcomer
from tests.e2e.glance.paging import by_links
from tests.support.glance.images import BATCH_COUNT, BATCH_TAG, Image
from tests.support.glance.server import Glance
from tests.support.proxy import ProxyProcess

_CRAWL = f"/v2/images?limit=50&tag={BATCH_TAG}&visibility=public"
_SPELLINGS = [
    pytest.param(_CRAWL, id="the same again"),
    pytest.param(f"/v2/images?visibility=public&tag={BATCH_TAG}&limit=50", id="another order"),
    pytest.param("/v2/images?limit=50&tag=%62atch%2dof%2D500&visib%69lity=public", id="percent-escapes"),
    pytest.param(f"{_CRAWL}&sort_key=created_at&sort_dir=desc", id="defaults spelt out"),
    pytest.param(f"/v2/images?limit=120&tag={BATCH_TAG}&visibility=public", id="another page size"),
]


@pytest.fixture(scope="module")
def token(newcomer: Newcomer) -> str:
    return newcomer("gamma")


@pytest.fixture(scope="module")
def first_crawl(token: str, glance: Glance, proxy: ProxyProcess) -> tuple[list[str], list[str]]:
    """The ids of the first crawl of the 500, and the list calls that reached Glance meanwhile."""
    before = len(glance.list_calls())
    ids = by_links(proxy.url, _CRAWL, token)
    return ids, glance.list_calls()[before:]


def test_a_crawl_of_500_images_at_50_a_page_costs_ten_calls_at_most(
    first_crawl: tuple[list[str], list[str]], catalogue: list[Image]
) -> None:
    """Each of the 500 comes once, and Glance is asked ten times or less, where it would have taken eleven pages."""
    ids, calls = first_crawl
    assert len(ids) == BATCH_COUNT
    assert set(ids) == {image.id for image in catalogue if BATCH_TAG in image.tags}
    assert 1 <= len(calls) <= 10, calls


@pytest.mark.parametrize("spelling", _SPELLINGS)
def test_the_crawl_is_free_again_in_every_spelling(
    spelling: str, first_crawl: tuple[list[str], list[str]], token: str, glance: Glance, proxy: ProxyProcess
) -> None:
    """The same images in the same order, and Glance is not asked."""
    before = len(glance.list_calls())
    assert by_links(proxy.url, spelling, token) == first_crawl[0]
    assert glance.list_calls()[before:] == []
