"""The client of IAM (Keystone API v3): validates tokens and issues the proxy's own."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import field
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from proxy.core.messages import Fields, Request, Response, Upstream
from proxy.core.partition import TokenScope
from proxy.core.values import immutable
from proxy.errors import UpstreamUnreachableError
from proxy.observability.logging import Telemetry

TOKENS_PATH: Final = "/v3/auth/tokens"


@immutable
class TokenInfo:
    """A token that IAM vouches for: its *scope*, and when it ends, epoch seconds."""

    scope: TokenScope
    expires_at: float


def parse_token_info(body: bytes) -> TokenInfo | None:
    """Return the verdict in IAM's answer *body*, None where it is none that can be understood."""
    try:
        token = orjson.loads(body)["token"]
        return TokenInfo(_parse_scope(token), _parse_time(token["expires_at"]))
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
        return None


def password_auth_request(*, user: str, domain: str, password: str, project_id: str) -> bytes:
    """Return the body that asks IAM for a token of *user*, of the domain with that name, for a project."""
    principal = {"name": user, "password": password, "domain": {"name": domain}}
    identity = {"methods": ["password"], "password": {"user": principal}}
    return orjson.dumps({"auth": {"identity": identity, "scope": {"project": {"id": project_id}}}})


def access_key_auth_request(*, access: str, secret: str, project_id: str) -> bytes:
    """Return the body that asks IAM for a token of whom the access key is, for a project.

    Huawei Cloud's own method `hw_ak_sk`: IAM's API reference does not list it, its clients use it in this form.
    """
    identity = {"methods": ["hw_ak_sk"], "hw_ak_sk": {"access": {"key": access}, "secret": {"key": secret}}}
    return orjson.dumps({"auth": {"identity": identity, "scope": {"project": {"id": project_id}}}})


def _parse_scope(token: dict[str, Any]) -> TokenScope:
    """Return what the token reaches. Roles count by id and name: policies name them, ids tell domains' own apart."""
    roles = sorted(f"{role['id']}\0{role['name']}" for role in token.get("roles", ()))
    user = _require_text(token["user"]["id"])
    if "project" in token:
        project = token["project"]
        reach = "admin-project" if token.get("is_admin_project") is True else "project"
        return TokenScope(
            reach, _require_text(project["domain"]["id"]), _require_text(project["id"]), tuple(roles), user
        )
    if "domain" in token:
        return TokenScope("domain", _require_text(token["domain"]["id"]), "", tuple(roles), user)
    if "system" in token:
        return TokenScope("system", "", "", tuple(roles), user)
    # Without a scope a token stands for its user alone.
    return TokenScope("unscoped", "", user, tuple(roles), user)


def _require_text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("no id")
    return value


def _parse_time(text: str) -> float:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


# What says that the token is not valid; anything else but a 200 says nothing of it.
_REFUSED_STATUSES: Final = frozenset({400, 401, 404})
# A token is renewed when so much of its life is left, or so many seconds if that is less.
_RENEWED_FRACTION: Final = 0.1
_RENEWED_S: Final = 600.0


@immutable
class IssuedToken:
    """A token of our own, when it was issued and when it ends, epoch seconds."""

    token: str = field(repr=False)
    issued_at: float
    expires_at: float

    @property
    def renew_at(self) -> float:
        """When to fetch the next one: the same for all who have it, whenever they came by it."""
        return self.expires_at - min(_RENEWED_S, _RENEWED_FRACTION * (self.expires_at - self.issued_at))


class KeystoneClient:
    """Asks IAM by *upstream*, a client of its endpoint; *clock* gives epoch seconds.

    Every call raises `ProxyError` where it gives no answer.
    """

    def __init__(self, upstream: Upstream, *, telemetry: Telemetry, clock: Callable[[], float] = time.time) -> None:
        self._upstream = upstream
        self._telemetry = telemetry
        self._clock = clock

    async def fetch_token_info(self, token: str) -> TokenInfo | None:
        """Return what *token* stands for, None where it is not valid. A token may always validate itself."""
        fields = Fields([("X-Auth-Token", token), ("X-Subject-Token", token), ("Accept", "application/json")])
        answer = await self._send(Request("GET", f"{TOKENS_PATH}?nocatalog=1", fields, request_id=""))
        if answer.status in _REFUSED_STATUSES:
            return None
        found = parse_token_info(answer.body) if answer.status == 200 else None
        if found is None:
            raise UpstreamUnreachableError(f"IAM: no verdict, status {answer.status}")
        if answer.fields.get("x-subject-token") not in (None, token):  # it repeats what it was asked about
            raise UpstreamUnreachableError("IAM: a verdict of another token than was asked about")
        return found

    async def issue_token(self, order: bytes) -> IssuedToken:
        """Return the token that *order* asks for."""
        fields = Fields([("Content-Type", "application/json"), ("Accept", "application/json")])
        request = Request("POST", f"{TOKENS_PATH}?nocatalog=1", fields, request_id="", body=_body_once(order))
        asked_at = self._clock()
        answer = await self._send(request)
        token = answer.fields.get("x-subject-token")
        found = parse_token_info(answer.body) if answer.status == 201 else None
        if found is None or not token:
            raise UpstreamUnreachableError(f"IAM: no token issued, status {answer.status}")
        return IssuedToken(token, asked_at, found.expires_at)

    async def _send(self, request: Request) -> Response:
        """Return IAM's answer to *request*; it is a call like those to the image API, and counted with them."""
        with self._telemetry.track_call("iam", clock=time.monotonic) as call:
            answer = await self._upstream.fetch(request)
            call.status = str(answer.status)
        return answer


async def _body_once(body: bytes) -> AsyncIterator[bytes]:
    yield body
