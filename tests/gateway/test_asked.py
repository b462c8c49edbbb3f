"""What a list request asks for, asked again: what a target names is remembered, and is nobody else's."""

from __future__ import annotations

from itertools import product

import pytest

from proxy.core.freshness import Lifetimes
from proxy.core.messages import Fields, Request
from proxy.core.partition import Partitioner, Scope, Who
from proxy.listing.request import Asking, ListAsk, PageSizes, Rules, asked

PARTITIONS = Partitioner(b"0123456789abcdef")
TARGETS = ("/v2/images", "/v2/images?limit=5", "/v2/images?limit=5&marker=a", "/v2/cloudimages", "/v2/images?name=a")
FORMS = ("", "A", "Z", "z")


@pytest.fixture
def asking() -> Asking:
    """Rules that hold for all requests; nothing is remembered yet."""
    return Asking(PARTITIONS, PageSizes(), Rules(Lifetimes(60.0)))


def ask(asking: Asking, who: Who, target: str, form: str = "") -> ListAsk:
    """Return what *who* asks for."""
    fields = Fields([("X-Auth-Token", "t"), *((("X-Api-Version", form),) if form else ())])
    made = asked(Request("GET", target, fields, "id"), asking, who)
    assert isinstance(made, ListAsk), made
    return made


def member(user: str) -> Who:
    """Return one of two users of a project, who share lists, but not those that may differ between users."""
    scope = Scope("project", "d", "p", (), user)
    return Who(PARTITIONS.scoped(scope, user=False), PARTITIONS.scoped(scope, user=True), verified=True)


def test_what_is_remembered_is_what_is_worked_out(asking: Asking) -> None:
    """Asked by many, in many forms, twice: each has what it has where nothing is remembered."""
    whose = [*map(member, "ab"), *(Who(each, each) for each in map(PARTITIONS.token, "cd"))]
    for who, target, form in [*product(whose, TARGETS, FORMS)] * 2:
        alone = Asking(PARTITIONS, asking.sizes, asking.rules)
        assert ask(asking, who, target, form) == ask(alone, who, target, form)


def test_who_differ_share_no_key(asking: Asking) -> None:
    """The same target names another listing to another token, and to another user where users' lists may differ."""
    tokens = [Who(each, each) for each in map(PARTITIONS.token, "ab")]
    assert len({ask(asking, who, "/v2/images").key for who in tokens}) == 2
    assert len({ask(asking, member(user), "/v2/cloudimages").key for user in "ab"}) == 2
    assert len({ask(asking, member(user), "/v2/images").key for user in "ab"}) == 1


def test_a_flood_of_targets_is_not_remembered(asking: Asking) -> None:
    """However many targets are asked for, and however long, few of them are remembered."""
    for number in range(5_000):
        ask(asking, member("a"), f"/v2/images?name={number}")
    ask(asking, member("a"), f"/v2/images?name={'n' * 2000}")
    assert len(asking._named) <= 4096
    assert all(len(target) <= 1024 for _, _, target in asking._named)
