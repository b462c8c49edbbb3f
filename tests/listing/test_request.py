"""What a list request asks for, asked again: what a target names is remembered, and is nobody else's."""

from __future__ import annotations

from itertools import product

import pytest

from proxy.core.freshness import Lifetimes
from proxy.core.messages import Fields, Request
from proxy.core.partition import Partitioner, Principal, TokenScope
from proxy.listing.request import LifetimeRules, ListRequest, ListRules, PageSizes, parse_list_request

PARTITIONS = Partitioner(b"0123456789abcdef")
TARGETS = ("/v2/images", "/v2/images?limit=5", "/v2/images?limit=5&marker=a", "/v2/cloudimages", "/v2/images?name=a")
FORMS = ("", "A", "Z", "z")


@pytest.fixture
def asking() -> ListRules:
    """Rules that hold for all requests; nothing is remembered yet."""
    return ListRules(PARTITIONS, PageSizes(), LifetimeRules(Lifetimes(60.0)))


def ask(asking: ListRules, who: Principal, target: str, form: str = "") -> ListRequest:
    """Return what *who* asks for."""
    fields = Fields([("X-Auth-Token", "t"), *((("X-Api-Version", form),) if form else ())])
    made = parse_list_request(Request("GET", target, fields, "id"), asking, who)
    assert isinstance(made, ListRequest), made
    return made


def member(user: str) -> Principal:
    """Return one of two users of a project, who share lists, but not those that may differ between users."""
    scope = TokenScope("project", "d", "p", (), user)
    return Principal(
        PARTITIONS.for_scope(scope, per_user=False), PARTITIONS.for_scope(scope, per_user=True), is_verified=True
    )


def test_what_is_remembered_is_what_is_worked_out(asking: ListRules) -> None:
    """Asked by many, in many forms, twice: each has what it has where nothing is remembered."""
    whose = [*map(member, "ab"), *(Principal(each, each) for each in map(PARTITIONS.for_token, "cd"))]
    for who, target, form in [*product(whose, TARGETS, FORMS)] * 2:
        alone = ListRules(PARTITIONS, asking.sizes, asking.lifetime_rules)
        assert ask(asking, who, target, form) == ask(alone, who, target, form)


def test_who_differ_share_no_key(asking: ListRules) -> None:
    """The same target names another listing to another token, and to another user where users' lists may differ."""
    tokens = [Principal(each, each) for each in map(PARTITIONS.for_token, "ab")]
    assert len({ask(asking, who, "/v2/images").key for who in tokens}) == 2
    assert len({ask(asking, member(user), "/v2/cloudimages").key for user in "ab"}) == 2
    assert len({ask(asking, member(user), "/v2/images").key for user in "ab"}) == 1


def test_a_flood_of_targets_is_not_remembered(asking: ListRules) -> None:
    """However many targets are asked for, and however long, few of them are remembered."""
    for number in range(5_000):
        ask(asking, member("a"), f"/v2/images?name={number}")
    ask(asking, member("a"), f"/v2/images?name={'n' * 2000}")
    assert len(asking._resolved) <= 4096
    assert all(len(target) <= 1024 for _, _, target in asking._resolved)
