"""Who sees which images."""

import pytest

from proxy.demo.catalogue import Catalogue
from proxy.demo.filters import Caller
from proxy.demo.query import ImsError
from tests.support.demo_images import ADMIN, ME, YOU, an_image, ids

STORE = Catalogue(
    [
        an_image("mine"),
        an_image("my-community", visibility="community"),
        an_image("public", visibility="public", owner="ims"),
        an_image("yours", owner="you"),
        an_image("your-community", owner="you", visibility="community"),
        an_image("accepted", owner="you", visibility="shared", members={"me": "accepted"}),
        an_image("pending", owner="you", visibility="shared", members={"me": "pending"}),
        an_image("rejected", owner="you", visibility="shared", members={"me": "rejected"}),
        an_image("elsewhere", owner="you", visibility="shared", members={"them": "accepted"}),
        an_image("withdrawn", owner="you", visibility="private", members={"me": "accepted"}),
    ]
)
OWN = {"mine", "my-community", "public"}


@pytest.mark.parametrize(
    ("caller", "query", "found"),
    [
        pytest.param(ME, "", OWN | {"accepted"}, id="own, public, accepted"),
        pytest.param(ME, "member_status=accepted", OWN | {"accepted"}, id="accepted is the default"),
        pytest.param(ME, "member_status=pending", OWN | {"pending"}, id="member_status changes every list"),
        pytest.param(ME, "member_status=all", OWN | {"accepted", "pending", "rejected"}, id="any answer"),
        pytest.param(ME, "visibility=shared&member_status=rejected", {"rejected"}, id="rejected ones"),
        pytest.param(ME, "visibility=private", {"mine"}, id="private"),
        pytest.param(ME, "visibility=public", {"public"}, id="public"),
        pytest.param(ME, "visibility=community", {"my-community", "your-community"}, id="community, if asked for"),
        pytest.param(ME, "visibility=all", OWN | {"accepted", "your-community"}, id="all"),
        pytest.param(YOU, "visibility=shared", {"accepted", "pending", "rejected", "elsewhere"}, id="the owner's view"),
        pytest.param(ADMIN, "visibility=private", {"mine", "yours", "withdrawn"}, id="an admin sees everyone's"),
        pytest.param(Caller("u", "nobody"), "", {"public"}, id="a stranger"),
    ],
)
def test_listed(caller: Caller, query: str, found: set[str]) -> None:
    """A list shows what its caller may see and has asked for."""
    assert set(ids(STORE, query, caller=caller)) == found


@pytest.mark.parametrize("image_id", ["mine", "public", "your-community", "accepted", "pending", "rejected"])
def test_what_is_readable_is_found_and_serves_as_marker(image_id: str) -> None:
    """An image that can be read by its id is a marker too."""
    assert STORE.get_readable(ME, image_id).id == image_id
    ids(STORE, f"marker={image_id}")


@pytest.mark.parametrize("image_id", ["yours", "elsewhere", "withdrawn"])
def test_what_is_not_readable_is_unknown_by_id_and_forbidden_as_marker(image_id: str) -> None:
    """An image that is hidden from its caller is answered 404 by its id, and 403 as a marker."""
    with pytest.raises(ImsError) as caught:
        STORE.get_readable(ME, image_id)
    assert caught.value.status == 404
    with pytest.raises(ImsError) as caught:
        ids(STORE, f"marker={image_id}")
    assert caught.value.status == 403


@pytest.mark.parametrize("marker", ["", "unknown", "MINE"])
def test_an_unknown_marker_is_refused(marker: str) -> None:
    """A marker that is no image is answered 400."""
    with pytest.raises(ImsError) as caught:
        ids(STORE, f"marker={marker}")
    assert caught.value.status == 400


def test_a_marker_that_does_not_match_the_filter_still_says_where() -> None:
    """The list continues from where the marker stands in the order, though it isn't part of the list itself."""
    store = Catalogue([an_image("a", tags=["t"]), an_image("b"), an_image("c", tags=["t"])])
    assert ids(store, "tag=t&sort_key=id&sort_dir=asc&marker=b") == ["c"]
