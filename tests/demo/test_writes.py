"""What writes change, and for whom."""

import pytest

from proxy.demo import writes
from proxy.demo.catalogue import Catalogue
from proxy.demo.filters import Caller
from proxy.demo.query import ImsError
from tests.support.demo_images import ADMIN, AT, ME, READER, YOU, an_image, ids

NOW = 1_735_693_200.0
LATER = "2025-01-01T01:00:00Z"


@pytest.fixture
def store() -> Catalogue:
    return Catalogue(
        [
            an_image("mine", tags=["a", "b"], spare="s"),
            an_image("kept", protected=True),
            an_image("queued", status="queued", size=None),
            an_image("public", visibility="public", owner="you"),
            an_image("yours", owner="you"),
        ]
    )


def patched(store: Catalogue, *operations: object) -> dict[str, object]:
    return dict(writes.patch_image(store, ME, "mine", list(operations), now=NOW).document)


def test_an_image_is_created_queued_and_listed(store: Catalogue) -> None:
    """A new image is queued, its creator's, and in the creator's lists at once."""
    image = writes.create_image(
        store, ME, {"name": "n", "__platform": "Ubuntu", "tags": ["t"]}, image_id="new", now=NOW
    )
    assert (image.get_text("status"), image.get_number("size"), image.get_text("owner")) == ("queued", None, "me")
    assert image.get_text("created_at") == image.get_text("updated_at") == LATER
    assert ids(store, "tag=t&__platform=Ubuntu") == ["new"]
    assert ids(store, "tag=t", caller=YOU) == []


def test_an_image_may_bring_its_own_id(store: Catalogue) -> None:
    """An id that is given is used."""
    assert writes.create_image(store, ME, {"id": "chosen"}, image_id="new", now=NOW).id == "chosen"


@pytest.mark.parametrize(
    ("caller", "wanted", "status"),
    [
        pytest.param(READER, {}, 403, id="a reader"),
        pytest.param(ME, [], 400, id="no object"),
        pytest.param(ME, {"id": 7}, 400, id="an id that is no string"),
        pytest.param(ME, {"id": "mine"}, 409, id="an id that is taken"),
        pytest.param(ME, {"size": 7}, 403, id="a read-only attribute"),
        pytest.param(ME, {"protected": "yes"}, 400, id="protected that is no boolean"),
        pytest.param(ME, {"min_ram": True}, 400, id="min_ram that is no number"),
        pytest.param(ME, {"tags": "a"}, 400, id="tags that are no array"),
        pytest.param(ME, {"visibility": "mine"}, 400, id="an unknown visibility"),
        pytest.param(ME, {"__platform": None}, 400, id="null"),
    ],
)
def test_creation_refused(store: Catalogue, caller: Caller, wanted: object, status: int) -> None:
    """An image that may not be is refused, and does not exist."""
    with pytest.raises(ImsError) as caught:
        writes.create_image(store, caller, wanted, image_id="new", now=NOW)
    assert caught.value.status == status
    assert "new" not in store


def test_a_patch_adds_replaces_and_removes(store: Catalogue) -> None:
    """A patch does what its operations say, and moves the time of the last change."""
    document = patched(
        store,
        {"op": "replace", "path": "/name", "value": "renamed"},
        {"op": "add", "path": "/a~1b", "value": "new"},
        {"op": "remove", "path": "/spare"},
    )
    assert (document["name"], document["a/b"], document["updated_at"]) == ("renamed", "new", LATER)
    assert document["created_at"] == AT
    assert "spare" not in document
    assert ids(store, "name=renamed") == ["mine"]


@pytest.mark.parametrize(
    ("operation", "status"),
    [
        pytest.param({"op": "replace", "path": "/absent", "value": "v"}, 409, id="replace what is not there"),
        pytest.param({"op": "remove", "path": "/absent"}, 409, id="remove what is not there"),
        pytest.param({"op": "remove", "path": "/name"}, 403, id="remove what must stay"),
        pytest.param({"op": "replace", "path": "/status", "value": "active"}, 403, id="read-only"),
        pytest.param({"op": "test", "path": "/name", "value": "v"}, 400, id="unknown operation"),
        pytest.param({"op": "add", "path": "/name"}, 400, id="no value"),
        pytest.param({"op": "add", "path": "name", "value": "v"}, 400, id="no slash"),
        pytest.param({"op": "add", "path": "/tags/0", "value": "v"}, 400, id="too deep"),
        pytest.param("add", 400, id="no operation at all"),
    ],
)
def test_a_patch_is_refused_as_a_whole(store: Catalogue, operation: object, status: int) -> None:
    """One operation that is refused leaves the image as it was."""
    before = store.get_readable(ME, "mine")
    with pytest.raises(ImsError) as caught:
        patched(store, {"op": "replace", "path": "/name", "value": "renamed"}, operation)
    assert caught.value.status == status
    assert store.get_readable(ME, "mine") is before


def test_a_patch_must_be_an_array(store: Catalogue) -> None:
    """A patch that is no array is answered 400."""
    with pytest.raises(ImsError) as caught:
        writes.patch_image(store, ME, "mine", {"op": "add"}, now=NOW)
    assert caught.value.status == 400


def test_a_deleted_image_is_gone_from_lists(store: Catalogue) -> None:
    """A deleted image is in no list."""
    writes.delete_image(store, ME, "mine")
    assert "mine" not in ids(store, "")


@pytest.mark.parametrize(
    ("caller", "image_id", "status"),
    [
        pytest.param(ME, "kept", 403, id="protected"),
        pytest.param(ME, "public", 403, id="visible, but another's"),
        pytest.param(ME, "yours", 404, id="invisible"),
        pytest.param(ME, "none", 404, id="unknown"),
        pytest.param(READER, "mine", 403, id="a reader"),
    ],
)
def test_deletion_refused(store: Catalogue, caller: Caller, image_id: str, status: int) -> None:
    """What is protected, another's, invisible or unknown is not deleted."""
    with pytest.raises(ImsError) as caught:
        writes.delete_image(store, caller, image_id)
    assert caught.value.status == status
    assert len(store) == 5


def test_an_admin_writes_anywhere(store: Catalogue) -> None:
    """An admin deletes what is another project's."""
    writes.delete_image(store, ADMIN, "yours")
    assert "yours" not in store


def test_an_upload_makes_a_queued_image_active_once(store: Catalogue) -> None:
    """Content makes an image active, with size and checksum, and is taken once."""
    writes.upload_data(store, ME, "queued", b"content", now=NOW)
    image = store.get_readable(ME, "queued")
    assert (image.get_text("status"), image.get_number("size"), store.contents["queued"]) == ("active", 7, b"content")
    assert image.get_text("checksum") == "9a0364b9e99bb480dd25e1f0284c8555"
    with pytest.raises(ImsError) as caught:
        writes.upload_data(store, ME, "queued", b"again", now=NOW)
    assert caught.value.status == 409


def test_content_goes_with_its_image(store: Catalogue) -> None:
    """Nothing is left of the content of a deleted image."""
    writes.upload_data(store, ME, "queued", b"content", now=NOW)
    writes.delete_image(store, ME, "queued")
    assert store.contents == {}


def test_tags_come_and_go(store: Catalogue) -> None:
    """Tags are added and taken away, and each is a change."""
    writes.add_tag(store, ME, "mine", "c=d", now=NOW)
    assert store.get_readable(ME, "mine").document["tags"] == ["a", "b", "c=d"]
    assert store.get_readable(ME, "mine").get_text("updated_at") == LATER
    writes.delete_tag(store, ME, "mine", "a", now=NOW)
    assert store.get_readable(ME, "mine").document["tags"] == ["b", "c=d"]


def test_a_tag_that_is_there_changes_nothing(store: Catalogue) -> None:
    """To add a tag that the image has leaves the image as it was."""
    before = store.get_readable(ME, "mine")
    writes.add_tag(store, ME, "mine", "a", now=NOW)
    assert store.get_readable(ME, "mine") is before


def test_a_tag_too_long_or_absent_is_refused(store: Catalogue) -> None:
    """A tag of more than 255 characters is answered 400, the removal of one that is not there 404."""
    with pytest.raises(ImsError) as caught:
        writes.add_tag(store, ME, "mine", "x" * 256, now=NOW)
    assert caught.value.status == 400
    with pytest.raises(ImsError) as caught:
        writes.delete_tag(store, ME, "mine", "absent", now=NOW)
    assert caught.value.status == 404
