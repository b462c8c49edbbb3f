"""Keystone as a child process, before an SQLite file of its own, with projects and users to log in as."""

from __future__ import annotations

import contextlib
import getpass
import http.client
import json
import os
import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.environment import Say, environment
from tests.support.ports import free_port
from tests.support.processes import LOOPBACK, Argv, http_ok, running, start

PASSWORD = "a made-up password of a user"
_HERE = Path(__file__).parent
_REPOSITORY = _HERE.parents[2]
_SETUP_S = 180.0
_START_S = 120.0
_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Keystone:
    """A running Keystone at *url*, what stands before `/v3`."""

    url: str
    port: int

    def token(self, user: str, scope: dict[str, Any] | str) -> str:
        """Return a new token of *user* with *scope*; raise AssertionError where it is refused."""
        who = {"name": user, "password": PASSWORD, "domain": {"id": "default"}}
        identity = {"methods": ["password"], "password": {"user": who}}
        fields, _ = self.ask("POST", "/auth/tokens", {"auth": {"identity": identity, "scope": scope}})
        return fields["x-subject-token"]

    def revoke(self, token: str) -> None:
        """Revoke *token*, by itself."""
        self.ask("DELETE", "/auth/tokens", token=token, subject=token)

    def ask(
        self, method: str, path: str, body: object = None, *, token: str | None = None, subject: str | None = None
    ) -> tuple[dict[str, str], Any]:
        """Return the fields, in lower case, and the parsed body of an answer that is a 2xx."""
        headers = {"Content-Type": "application/json"}
        headers |= {"X-Auth-Token": token} if token else {}
        headers |= {"X-Subject-Token": subject} if subject else {}
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=_TIMEOUT_S)
        try:
            connection.request(method, f"/v3{path}", None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            raw = answer.read()
            assert answer.status // 100 == 2, (method, path, answer.status, raw)
            return {name.lower(): value for name, value in answer.getheaders()}, json.loads(raw) if raw else None
        finally:
            connection.close()


def of_project(name: str) -> dict[str, Any]:
    """Return the scope of the project *name*."""
    return {"project": {"name": name, "domain": {"id": "default"}}}


@contextlib.contextmanager
def keystone(directory: Path, *, say: Say) -> Iterator[Keystone]:
    """Hold a Keystone running in *directory*, with an administrator and what `_populated` makes."""
    home = environment("keystone", _HERE / "requirements.txt", say=say)
    template = string.Template((_HERE / "etc.conf").read_text())
    (directory / "keystone.conf").write_text(template.substitute(directory=directory))
    port = free_port()
    found = Keystone(f"http://{LOOPBACK}:{port}", port)
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "OS_"))},
        "OS_KEYSTONE_CONFIG_DIR": str(directory),
        "PYTHONPATH": str(_REPOSITORY),
    }
    for words in _setup(found.url):
        argv: Argv = [home / "bin" / "keystone-manage", "--config-file", directory / "keystone.conf", *words]
        start(argv, log=directory / "setup.log", env=env, cwd=directory).wait_end(within_s=_SETUP_S)
    serve: Argv = [
        *(home / "bin" / "gunicorn", "--bind", f"{LOOPBACK}:{port}"),
        *("--config", "python:tests.support.keystone.gunicorn_settings"),
        "tests.support.keystone.application:application",
    ]
    log = directory / "gunicorn.log"
    with running(serve, log=log, env=env, cwd=directory, ready=http_ok(port, "/v3"), within_s=_START_S):
        _populate(found)
        yield found


def _setup(url: str) -> Iterator[tuple[str, ...]]:
    owner = ("--keystone-user", getpass.getuser(), "--keystone-group", getpass.getuser())
    yield ("db_sync",)
    yield ("fernet_setup", *owner)
    yield ("credential_setup", *owner)
    yield (
        "bootstrap",
        "--bootstrap-password",
        PASSWORD,
        "--bootstrap-public-url",
        f"{url}/v3",
        "--bootstrap-region-id",
        "r",
    )


def _populate(keystone: Keystone) -> None:
    """Make the projects alpha and beta, and users with roles in them: alpha has two members and a reader."""
    admin = keystone.token("admin", of_project("admin"))
    _, listed = keystone.ask("GET", "/roles", token=admin)
    roles = {role["name"]: role["id"] for role in listed["roles"]}
    grants = {"alpha": {"ann": "member", "art": "member", "abe": "reader"}, "beta": {"bob": "member"}}
    for project, users in grants.items():
        _, made = keystone.ask("POST", "/projects", {"project": {"name": project, "domain_id": "default"}}, token=admin)
        for name, role in users.items():
            user = {"name": name, "password": PASSWORD, "domain_id": "default"}
            _, created = keystone.ask("POST", "/users", {"user": user}, token=admin)
            at = f"/projects/{made['project']['id']}/users/{created['user']['id']}/roles/{roles[role]}"
            keystone.ask("PUT", at, token=admin)
