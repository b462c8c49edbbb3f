"""An IAM look-alike in this process: it knows the tokens it is told, and counts what it was asked."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import orjson
from aiohttp import web

PASSWORD = "a made-up password of the proxy"
SECRET_KEY = "a made-up secret of the proxy's access key"


@dataclass(slots=True)
class Token:
    """What a token stands for: *scope* is the part of Keystone's answer that says how far it reaches."""

    user: str
    scope: Mapping[str, Any]
    roles: tuple[str, ...] = ("member",)
    expires_at: float = 4e9


def of_project(project: str, *, user: str = "u1", roles: tuple[str, ...] = ("member",), domain: str = "d1") -> Token:
    """Return a token of a project."""
    return Token(user, {"project": {"id": project, "name": project, "domain": {"id": domain, "name": domain}}}, roles)


class IamLookalike:
    """Keystone's token API on a free port. *validated* is each token that was asked about, in order,
    *logins* and *issued* how often a token was asked for and given.

    While *gate* is shut answers wait; with *failing* set that status is answered to everything, 429 for a minute.
    With *mixed_up* set that token is spoken of, whichever was asked about.
    """

    def __init__(self, tokens: Mapping[str, Token]) -> None:
        self.tokens = dict(tokens)
        self.validated: list[str] = []
        self.logins = 0
        self.issued = 0
        self.failing: int | None = None
        self.mixed_up: str | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = asyncio.Event()
        self.url = ""
        self.lifetime_s = 3600.0
        self._runner: web.ServerRunner | None = None

    async def __aenter__(self) -> Self:
        server = web.Server(self._respond, max_field_size=128 * 1024, max_line_size=128 * 1024)
        self._runner = web.ServerRunner(server, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _respond(self, request: web.BaseRequest) -> web.Response:
        if request.path != "/v3/auth/tokens":
            return web.json_response({"error": {"code": 404}}, status=404)
        if request.method == "GET":
            self.validated.append(request.headers.get("X-Subject-Token", ""))
        self.asked.set()
        await self.gate.wait()
        if self.failing is not None:
            later = {"Retry-After": "60"} if self.failing == 429 else {}
            return web.json_response({"error": {"code": self.failing}}, status=self.failing, headers=later)
        return await self._issue(request) if request.method == "POST" else self._validate(request)

    def _validate(self, request: web.BaseRequest) -> web.Response:
        subject = request.headers.get("X-Subject-Token", "")
        token = self.tokens.get(subject)
        if request.headers.get("X-Auth-Token") != subject or token is None or token.expires_at <= time.time():
            return web.json_response({"error": {"code": 404, "message": "not found"}}, status=404)
        spoken_of = self.mixed_up or subject
        return web.json_response(self._document(self.tokens[spoken_of]), headers={"X-Subject-Token": spoken_of})

    async def _issue(self, request: web.BaseRequest) -> web.Response:
        asked = (await _json(request))["auth"]
        self.logins += 1
        user = _logged_in(asked["identity"])
        if user is None:
            return web.json_response({"error": {"code": 401}}, status=401)
        self.issued += 1
        name = f"issued-{uuid.uuid4().hex}"
        token = of_project(asked["scope"]["project"]["id"], user=user)
        token.expires_at = time.time() + self.lifetime_s
        self.tokens[name] = token
        return web.json_response(self._document(token), status=201, headers={"X-Subject-Token": name})

    @staticmethod
    def _document(token: Token) -> dict[str, Any]:
        moment = datetime.fromtimestamp(token.expires_at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {
            "token": {
                "methods": ["password"],
                "expires_at": moment,
                "user": {"id": token.user, "name": token.user, "domain": {"id": "d1", "name": "d1"}},
                "roles": [{"id": f"id-{name}", "name": name} for name in token.roles],
                **token.scope,
            }
        }


def _logged_in(identity: dict[str, Any]) -> str | None:
    """Return whom *identity* proves to be, by the password or by the secret of an access key."""
    match identity:
        case {"methods": ["password"], "password": {"user": {"name": str(name), "password": password}}}:
            return name if password == PASSWORD else None
        case {"methods": ["hw_ak_sk"], "hw_ak_sk": {"access": {"key": str(key)}, "secret": {"key": secret}}}:
            return f"owner of {key}" if secret == SECRET_KEY else None
        case _:
            return None


async def _json(request: web.BaseRequest) -> Any:
    return orjson.loads(await request.content.read())
