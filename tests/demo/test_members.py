"""Sharing an image, and what each side may do about it."""

from collections.abc import Callable

import pytest

from proxy.demo import writes as members
from proxy.demo.catalogue import Catalogue
from proxy.demo.filters import Caller
from proxy.demo.query import ImsError
from tests.support.demo_images import ME, YOU, an_image, ids

NOW = 1_735_693_200.0
THEM = Caller("their-user", "them")


@pytest.fixture
def store() -> Catalogue:
    return Catalogue([an_image("shared", visibility="shared", members={"them": "accepted"}), an_image("private")])


def test_an_offer_is_listed_once_accepted(store: Catalogue) -> None:
    """A member lists a shared image from its acceptance until it is expelled."""
    assert members.create_member(store, ME, "shared", "you", now=NOW)["status"] == "pending"
    assert ids(store, "", caller=YOU) == []
    assert ids(store, "member_status=pending", caller=YOU) == ["shared"]
    answered = members.update_member(store, YOU, "shared", "you", "accepted", now=NOW + 60)
    assert (answered["status"], answered["updated_at"]) == ("accepted", "2025-01-01T01:01:00Z")
    assert ids(store, "", caller=YOU) == ["shared"]
    members.delete_member(store, ME, "shared", "you")
    assert ids(store, "member_status=all", caller=YOU) == []


def test_the_owner_sees_all_members_and_a_member_itself(store: Catalogue) -> None:
    """Who is asked about members is told all of them as the owner, and itself as a member."""
    members.create_member(store, ME, "shared", "you", now=NOW)
    assert [member["member_id"] for member in members.list_members(store, ME, "shared")] == ["them", "you"]
    assert [member["member_id"] for member in members.list_members(store, YOU, "shared")] == ["you"]
    assert members.get_member(store, ME, "shared", "you") == members.get_member(store, YOU, "shared", "you")


REFUSALS: list[tuple[str, Callable[[Catalogue], object], int]] = [
    ("share what is another's", lambda store: members.create_member(store, THEM, "shared", "you", now=NOW), 403),
    ("share what is private", lambda store: members.create_member(store, ME, "private", "you", now=NOW), 403),
    ("share with nobody", lambda store: members.create_member(store, ME, "shared", "", now=NOW), 400),
    ("share with no project", lambda store: members.create_member(store, ME, "shared", None, now=NOW), 400),
    ("share twice", lambda store: members.create_member(store, ME, "shared", "them", now=NOW), 409),
    ("share what is unknown", lambda store: members.create_member(store, ME, "none", "you", now=NOW), 404),
    (
        "answer for another",
        lambda store: members.update_member(store, ME, "shared", "them", "accepted", now=NOW),
        403,
    ),
    ("answer nonsense", lambda store: members.update_member(store, THEM, "shared", "them", "maybe", now=NOW), 400),
    ("answer uninvited", lambda store: members.update_member(store, ME, "shared", "me", "accepted", now=NOW), 404),
    ("read another's answer", lambda store: members.get_member(store, THEM, "shared", "you"), 404),
    ("look in uninvited", lambda store: members.list_members(store, YOU, "shared"), 404),
    ("expel as a member", lambda store: members.delete_member(store, THEM, "shared", "them"), 403),
    ("expel who is none", lambda store: members.delete_member(store, ME, "shared", "you"), 404),
]


@pytest.mark.parametrize(("act", "status"), [pytest.param(act, status, id=name) for name, act, status in REFUSALS])
def test_refused(store: Catalogue, act: Callable[[Catalogue], object], status: int) -> None:
    """What neither side may do is refused, by the status that Glance gives."""
    with pytest.raises(ImsError) as caught:
        act(store)
    assert caught.value.status == status
