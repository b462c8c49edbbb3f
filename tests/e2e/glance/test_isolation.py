"""What one project may not see, no cache shows it."""

import pytest

from tests.e2e.glance.conftest import Newcomer
from tests.e2e.glance.paging import by_links, get
from tests.support.glance.images import Image
from tests.support.glance.server import Glance
from tests.support.proxy import ProxyProcess

_TARGETS = [
    pytest.param("/v2/images?limit=100&tag=env%3Dprod", id="of any visibility"),
    pytest.param("/v2/images?limit=100&visibility=private", id="private"),
    pytest.param("/v2/images?limit=100&visibility=shared&member_status=all", id="shared, in any member status"),
]


@pytest.mark.parametrize("target", _TARGETS)
def test_two_projects_never_see_each_others_images(
    target: str, glance: Glance, proxy: ProxyProcess, newcomer: Newcomer, catalogue: list[Image]
) -> None:
    """Two projects asking the same, in turn and again, each get their own list and nobody else's private image."""
    tokens = {project: newcomer(project) for project in ("alpha", "beta")}
    directly = {project: by_links(glance.url, target, token) for project, token in tokens.items()}
    for project, token in [*tokens.items(), *tokens.items()]:
        shown = by_links(proxy.url, target, token)
        assert set(shown).isdisjoint(_hidden_from(project, catalogue))
        assert shown == directly[project] != []


def test_a_role_is_part_of_who_asks(glance: Glance, proxy: ProxyProcess) -> None:
    """A user's list as an administrator is not shown to the same user as a reader."""
    target = "/v2/images?limit=100&visibility=private"
    shown = {role: get(proxy.url, target, f"one:ops:{role}").ids() for role in ("admin", "reader")}
    assert shown["admin"]
    assert shown["reader"] == []


@pytest.mark.parametrize("token", ["", "nobody", "someone::member"])
def test_a_warm_list_is_not_shown_to_a_stranger(token: str, proxy: ProxyProcess, newcomer: Newcomer) -> None:
    """Who has no valid token gets Glance's 401, whatever others have just been given."""
    target = "/v2/images?limit=10"
    assert get(proxy.url, target, newcomer("alpha")).status == 200
    assert get(proxy.url, target, token).status == 401


def test_another_projects_image_is_no_marker(
    glance: Glance, proxy: ProxyProcess, newcomer: Newcomer, catalogue: list[Image]
) -> None:
    """A marker out of another project's private images is refused as Glance refuses it, though that list is stored."""
    theirs = next(image.id for image in catalogue if image.owner == "beta" and image.visibility == "private")
    assert theirs in by_links(proxy.url, "/v2/images?limit=200&visibility=private", newcomer("beta"))
    target = f"/v2/images?limit=200&visibility=private&marker={theirs}"
    assert get(proxy.url, target, newcomer("alpha")).status == get(glance.url, target, newcomer("alpha")).status == 403


def _hidden_from(project: str, catalogue: list[Image]) -> set[str]:
    """Return the images that are none of *project*'s business: others' private ones, and those shared elsewhere."""
    return {
        image.id
        for image in catalogue
        if image.owner != project
        and (image.visibility == "private" or (image.visibility == "shared" and project not in image.members))
    }
