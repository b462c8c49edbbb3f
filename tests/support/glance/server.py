"""Glance as a child process, before an SQLite file of its own, and the record of what it was asked."""

import contextlib
import os
import shutil
import sqlite3
import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.environment import Say, environment
from tests.support.ports import free_port
from tests.support.processes import LOOPBACK, Argv, http_ok, running, start

_HERE = Path(__file__).parent
_REPOSITORY = _HERE.parents[2]
_CONFIGURATION = ("glance-api.conf", "glance-api-paste.ini")
_MIGRATION_S = 180.0
_START_S = 120.0


@dataclass(frozen=True, slots=True)
class Glance:
    """A running Glance; *python* is the interpreter of its environment, which also has the clients."""

    url: str
    python: Path
    database: Path
    access_log: Path

    def requests(self) -> list[str]:
        """Return every request line so far, method and raw target, in the order of arrival."""
        return self.access_log.read_text(encoding="latin-1").splitlines()

    def list_calls(self) -> list[str]:
        """Return the raw targets of the image lists asked for so far."""
        lines = (line.partition(" ") for line in self.requests())
        return [target for method, _, target in lines if method == "GET" and _path(target) == "/v2/images"]


def _path(target: str) -> str:
    return target.partition("?")[0]


@contextlib.contextmanager
def glance(directory: Path, *, say: Say) -> Iterator[Glance]:
    """Hold a Glance without images running in *directory*."""
    home = glance_environment(say=say)
    _configure(directory)
    database, access_log = directory / "glance.db", directory / "access.log"
    env = _variables(directory, access_log)
    empty = home / "empty.db"
    if not empty.exists():
        say("glance: preparing an empty database, once")
        _migrate(home, directory, env)
        partial = shutil.copyfile(database, home / f"empty-{os.getpid()}.db")
        partial.replace(empty)  # at once, so that another run finds all of it or nothing
    shutil.copyfile(empty, database)
    port = free_port()
    argv: Argv = [
        *(home / "bin" / "gunicorn", "--chdir", directory, "--bind", f"{LOOPBACK}:{port}"),
        *("--config", "python:tests.support.glance.gunicorn_settings"),
    ]
    with running(argv, log=directory / "gunicorn.log", env=env, ready=http_ok(port, "/healthcheck"), within_s=_START_S):
        say(f"glance: ready at http://{LOOPBACK}:{port}")
        yield Glance(f"http://{LOOPBACK}:{port}", home / "bin" / "python", database, access_log)


def glance_environment(*, say: Say) -> Path:
    """Return the environment that Glance and its clients share."""
    return environment("glance", _HERE / "requirements.txt", say=say)


def _configure(directory: Path) -> None:
    for name in ("data", "staging"):
        (directory / name).mkdir()
    for name in _CONFIGURATION:
        template = string.Template((_HERE / "etc" / name).read_text())
        (directory / name).write_text(template.substitute(directory=directory))


def _variables(directory: Path, access_log: Path) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "OS_"))},
        "OS_GLANCE_CONFIG_DIR": str(directory),
        "GLANCE_ACCESS_LOG": str(access_log),
        "PYTHONPATH": str(_REPOSITORY),
    }


def _migrate(home: Path, directory: Path, env: dict[str, str]) -> None:
    configuration = directory / _CONFIGURATION[0]
    argv: Argv = [home / "bin" / "glance-manage", "--config-file", configuration, "db_sync"]
    start(argv, log=directory / "migration.log", env=env).wait_end(within_s=_MIGRATION_S)
    with contextlib.closing(sqlite3.connect(directory / "glance.db")) as database:
        database.execute("pragma journal_mode=wal")  # lists are read while a write is under way
