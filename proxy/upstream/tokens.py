"""What IAM says of a token (Keystone API v3, "Validate and show information for token")."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import orjson

from proxy.core.partition import Scope
from proxy.core.values import immutable

TOKENS_PATH: Final = "/v3/auth/tokens"


@immutable
class Verdict:
    """A token that IAM vouches for: its *scope*, and when it ends, epoch seconds."""

    scope: Scope
    expires_at: float


def verdict(body: bytes) -> Verdict | None:
    """Return the verdict in IAM's answer *body*, None where it is none that can be understood."""
    try:
        token = orjson.loads(body)["token"]
        return Verdict(_scope(token), _moment(token["expires_at"]))
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
        return None


def password_order(*, user: str, domain: str, password: str, project_id: str) -> bytes:
    """Return the body that asks IAM for a token of *user*, of the domain with that name, for a project."""
    who = {"name": user, "password": password, "domain": {"name": domain}}
    identity = {"methods": ["password"], "password": {"user": who}}
    return orjson.dumps({"auth": {"identity": identity, "scope": {"project": {"id": project_id}}}})


def key_order(*, access: str, secret: str, project_id: str) -> bytes:
    """Return the body that asks IAM for a token of whom the access key is, for a project.

    Huawei Cloud's own method `hw_ak_sk`: IAM's API reference does not list it, its clients use it in this form.
    """
    identity = {"methods": ["hw_ak_sk"], "hw_ak_sk": {"access": {"key": access}, "secret": {"key": secret}}}
    return orjson.dumps({"auth": {"identity": identity, "scope": {"project": {"id": project_id}}}})


def _scope(token: dict[str, Any]) -> Scope:
    """Return what the token reaches. Roles count by id and name: policies name them, ids tell domains' own apart."""
    roles = sorted(f"{role['id']}\0{role['name']}" for role in token.get("roles", ()))
    user = _text(token["user"]["id"])
    if "project" in token:
        project = token["project"]
        reach = "admin-project" if token.get("is_admin_project") is True else "project"
        return Scope(reach, _text(project["domain"]["id"]), _text(project["id"]), tuple(roles), user)
    if "domain" in token:
        return Scope("domain", _text(token["domain"]["id"]), "", tuple(roles), user)
    if "system" in token:
        return Scope("system", "", "", tuple(roles), user)
    # Without a scope a token stands for its user alone.
    return Scope("unscoped", "", user, tuple(roles), user)


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("no id")
    return value


def _moment(text: str) -> float:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
