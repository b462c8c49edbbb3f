"""Single images and schemas of a real Glance."""

import pytest

from tests.e2e.glance.conftest import Newcomer
from tests.e2e.glance.paging import get
from tests.support.glance.server import Glance
from tests.support.proxy import ProxyProcess

_SCHEMAS = ("image", "images", "member", "members")


@pytest.mark.parametrize("name", _SCHEMAS)
def test_a_schema_is_glances_own(name: str, glance: Glance, proxy: ProxyProcess, newcomer: Newcomer) -> None:
    """Byte for byte, from the upstream and from the store."""
    who, target = newcomer("alpha"), f"/v2/schemas/{name}"
    directly = get(glance.url, target, who)
    answers = [get(proxy.url, target, who) for _ in range(2)]
    assert [(each.status, each.body) for each in answers] == [(200, directly.body)] * 2
    assert ["; hit" in each.fields["cache-status"] for each in answers] == [False, True]


def test_an_image_is_glances_own_and_the_list_s(glance: Glance, proxy: ProxyProcess, newcomer: Newcomer) -> None:
    """What it says alone, it says in a list: that is what `cache.item_from_list` builds on."""
    who = newcomer("alpha")
    listed = get(glance.url, "/v2/images?status=active&limit=3", who).json()["images"]
    assert listed
    for image in listed:
        target = f"/v2/images/{image['id']}"
        directly = get(glance.url, target, who)
        answers = [get(proxy.url, target, who) for _ in range(2)]
        assert [(each.status, each.body) for each in answers] == [(200, directly.body)] * 2
        assert "; hit" in answers[1].fields["cache-status"]
        assert directly.json() == image


def test_an_image_of_another_project_is_refused_in_glances_words(
    glance: Glance, proxy: ProxyProcess, newcomer: Newcomer
) -> None:
    """Though the owner's own answer is stored."""
    owner, other = newcomer("alpha"), newcomer("beta")
    target = "/v2/images?visibility=private&status=active&limit=1"
    image = f"/v2/images/{get(glance.url, target, owner).ids()[0]}"
    assert get(proxy.url, image, owner).status == 200
    directly = get(glance.url, image, other)
    answer = get(proxy.url, image, other)
    assert (answer.status, answer.body) == (directly.status, directly.body)
    assert answer.status == 404
