"""Which paths lead where."""

import pytest

from proxy.demo.app import match_route


@pytest.mark.parametrize(
    ("path", "template", "args"),
    [
        ("/", "/", ()),
        ("/versions", "/versions", ()),
        ("/v2/images", "/v2/images", ()),
        ("//v2//images", "/v2/images", ()),
        ("/v2.17/images", "/v2/images", ()),
        ("/v2/%69mages", "/v2/images", ()),
        ("/v2/images/i", "/v2/images/{}", ("i",)),
        ("/v2/images/i%20j", "/v2/images/{}", ("i j",)),
        ("/v2/images/i/tags/a%3Db", "/v2/images/{}/tags/{}", ("i", "a=b")),
        ("/v2/images/i/members/p", "/v2/images/{}/members/{}", ("i", "p")),
        ("/v1/cloudimages/quota", "/v1/cloudimages/quota", ()),
    ],
)
def test_found(path: str, template: str, args: tuple[str, ...]) -> None:
    """A path, in any spelling that Glance takes, leads to its template, and gives the arguments decoded."""
    found = match_route(path)
    assert found is not None
    assert (found[0].template, found[1]) == (template, args)


@pytest.mark.parametrize(
    "path",
    [
        "/v2/images/",
        "/v2/images.css",
        "/v2/images;x",
        "/V2/images",
        "/v2/Images",
        "/v2",
        "/v2/images/..%2f",
        "/v2/images/i/tags/",
        "/v2/images/i/tags/a%2Fb",
        "/v2/\udcff",
        "/v3/images",
        "",
    ],
)
def test_nowhere(path: str) -> None:
    """A path that the API does not have leads nowhere."""
    assert match_route(path) is None
