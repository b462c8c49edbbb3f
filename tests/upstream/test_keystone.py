"""What IAM says of a token."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from proxy.core.partition import Partitioner, TokenScope
from proxy.upstream.keystone import TokenInfo, parse_token_info, password_auth_request

PROJECT = {"id": "p", "name": "p", "domain": {"id": "d", "name": "d"}}


def said(**token: Any) -> TokenInfo | None:
    whole = {"expires_at": "2026-05-01T00:00:00.000000Z", "user": {"id": "u", "name": "u"}} | token
    return parse_token_info(
        orjson.dumps({"token": {name: value for name, value in whole.items() if value is not None}})
    )


@pytest.mark.parametrize(
    ("token", "scope"),
    [
        pytest.param({"project": PROJECT}, TokenScope("project", "d", "p", (), "u"), id="of a project"),
        pytest.param(
            {"project": PROJECT, "is_admin_project": True},
            TokenScope("admin-project", "d", "p", (), "u"),
            id="of the admins'",
        ),
        pytest.param({"domain": {"id": "d"}}, TokenScope("domain", "d", "", (), "u"), id="of a domain"),
        pytest.param({"system": {"all": True}}, TokenScope("system", "", "", (), "u"), id="of the system"),
        pytest.param({}, TokenScope("unscoped", "", "u", (), "u"), id="without a scope"),
    ],
)
def test_each_reach_is_told_apart(token: dict[str, Any], scope: TokenScope) -> None:
    """Tokens of a project, a domain, the system and of nothing are different identities."""
    found = said(**token)
    assert found is not None
    assert found.scope == scope
    assert found.expires_at == 1_777_593_600.0


def test_roles_are_a_set() -> None:
    """The order in which IAM names roles says nothing; id and name both do."""
    one, other = {"id": "1", "name": "member"}, {"id": "2", "name": "reader"}
    assert said(project=PROJECT, roles=[one, other]) == said(project=PROJECT, roles=[other, one])
    assert said(project=PROJECT, roles=[one]) != said(project=PROJECT, roles=[{"id": "3", "name": "member"}])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"token": null}',
        b'{"token": {"expires_at": "soon", "user": {"id": "u"}}}',
        b'{"token": {"expires_at": "2026-05-01T00:00:00Z"}}',
        b'{"token": {"expires_at": "2026-05-01T00:00:00Z", "user": {"id": ""}}}',
        b'{"token": {"expires_at": "2026-05-01T00:00:00Z", "user": {"id": "u"}, "project": {"id": "p"}}}',
        b'{"token": {"expires_at": "2026-05-01T00:00:00Z", "user": {"id": "u"}, "roles": ["member"]}}',
        b"<html>",
    ],
)
def test_what_is_no_verdict_is_none(body: bytes) -> None:
    """An answer that lacks what identifies the caller vouches for nobody."""
    assert parse_token_info(body) is None


def test_partitions_of_scopes_differ_in_every_part() -> None:
    """Domain, project, reach, roles and, where it matters, user each make another partition."""
    maker = Partitioner(b"sixteen bytes or more")
    scopes = [
        TokenScope("project", "d", "p", ("r",), "u"),
        TokenScope("project", "d2", "p", ("r",), "u"),
        TokenScope("project", "d", "p2", ("r",), "u"),
        TokenScope("admin-project", "d", "p", ("r",), "u"),
        TokenScope("project", "d", "p", ("r", "s"), "u"),
        TokenScope("project", "d", "p", (), "u"),
        TokenScope("domain", "d", "", ("r",), "u"),
        TokenScope("unscoped", "", "u", (), "u"),
    ]
    of_all = [maker.for_scope(scope, per_user=False) for scope in scopes]
    assert len(set(of_all)) == len(scopes)
    again = TokenScope("project", "d", "p", ("r",), "another")
    assert maker.for_scope(again, per_user=False) == of_all[0]
    assert maker.for_scope(again, per_user=True) != maker.for_scope(scopes[0], per_user=True)


def test_parts_can_not_be_shifted_into_each_other() -> None:
    """A delimiter, a length or a count inside an id makes no other identity's partition."""
    maker = Partitioner(b"sixteen bytes or more")
    pairs = [
        (TokenScope("project", "a", "b1:c", (), "u"), TokenScope("project", "a1:b", "c", (), "u")),
        (TokenScope("project", "a", "b", ("c", "d"), "u"), TokenScope("project", "a", "b", ("c1:d",), "u")),
        (TokenScope("project", "a", "b", ("1", "0"), "u"), TokenScope("project", "a", "b", ("10",), "u")),
    ]
    assert all(maker.for_scope(one, per_user=False) != maker.for_scope(other, per_user=False) for one, other in pairs)
    user_zero = TokenScope("project", "a", "b", ("1",), "0")
    assert maker.for_scope(user_zero, per_user=False) != maker.for_scope(user_zero, per_user=True)


def test_the_password_stands_where_iam_looks_for_it() -> None:
    """A token is asked for by user, domain and password, for a project."""
    auth = orjson.loads(password_auth_request(user="u", domain="d", password="pw", project_id="p"))["auth"]
    assert auth["identity"]["password"]["user"] == {"name": "u", "password": "pw", "domain": {"name": "d"}}
    assert auth["scope"] == {"project": {"id": "p"}}
