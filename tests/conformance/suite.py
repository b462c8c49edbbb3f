"""The suite: http-cache-tests from the npm registry, or a checkout of its repository, which is newer."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from tests.conformance.verdicts import Outcome, outcome
from tests.support.ports import free_port
from tests.support.processes import Argv, http_ok, running, start

PACKAGE = "http-cache-tests"
VERSION = "0.4.5"
HERE = Path(__file__).parent
INSTALL_S = 180.0
# Node.js has certificates of its own, and doesn't know those that a company's network adds to the system's.
_SYSTEM_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
RUN_S = 240.0


@dataclass(frozen=True, slots=True)
class Suite:
    """The suite in *directory*, known as *name*; *engine* is where its client and server are in there."""

    name: str
    directory: Path
    engine: str = ""

    @contextmanager
    def origin(self, scratch: Path) -> Iterator[int]:
        """Run the suite's origin server and give its port."""
        port = free_port()
        server = self.directory / self.engine / "server" / "server.mjs"
        names = {"protocol": "http", "port": str(port), "pidfile": str(scratch / "origin.pid")}
        env = dict(os.environ) | {f"npm_config_{name}": value for name, value in names.items()}
        argv: Argv = [node(), "--no-warnings", HERE / "origin.mjs", server]
        ready = http_ok(port, "/package.json")
        with running(argv, log=scratch / "origin.log", ready=ready, env=env, cwd=self.directory):
            yield port

    def run(self, base: str, scratch: Path) -> Outcome:
        """Return how the tests end against the cache at *base*."""
        told = self._told(base, scratch)
        return outcome(told["tests"], told["results"])

    def published(self, scratch: Path) -> dict[str, Outcome]:
        """Return the results that the suite itself has of other caches, by name; none in the package."""
        tests = self._told("", scratch)["tests"]
        found = sorted((self.directory / "results").glob("*.json"))
        return {file.stem: outcome(tests, orjson.loads(file.read_bytes())) for file in found}

    def _told(self, base: str, scratch: Path) -> Any:
        log = scratch / "client.log"
        log.unlink(missing_ok=True)
        argv: Argv = [node(), "--no-warnings", HERE / "run.mjs", self.directory, f"{self.engine or '.'}/client", base]
        start(argv, log=log, cwd=self.directory).wait_end(within_s=RUN_S)
        return orjson.loads(log.read_bytes().rstrip().rpartition(b"\n")[2])


def node() -> str:
    """Return the path of Node.js; raises AssertionError where there is none."""
    found = shutil.which("node")
    assert found is not None, "node: not installed, tests/provision node brings it"
    return found


def checkout(directory: Path) -> Suite:
    """Return the suite in a checkout of its repository, its dependencies installed."""
    asked: Argv = ["git", "-C", directory, "log", "-1", "--format=%h of %cs"]
    said = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    return Suite(f"http-tests/cache-tests, commit {said}", directory, "test-engine")


def package() -> Suite:
    """Return the suite from the registry, installed once for all runs."""
    home = _cache() / f"{PACKAGE}-{VERSION}"
    directory = home / "node_modules" / PACKAGE
    if not (home / "complete").exists():
        home.mkdir(parents=True, exist_ok=True)
        with _locked(home / "lock"):
            if not (home / "complete").exists():
                _install(home)
    return Suite(f"{PACKAGE} {VERSION}", directory)


def _install(home: Path) -> None:
    npm = shutil.which("npm")
    assert npm is not None, "npm: not installed, tests/provision node brings it"
    patient = ("--fetch-retries=5", "--fetch-timeout=30000")
    quiet = ("--no-audit", "--no-fund", "--no-save", "--ignore-scripts", "--loglevel=error")
    argv: Argv = [npm, "install", *quiet, *patient, "--prefix", home, f"{PACKAGE}@{VERSION}"]
    env = {"NODE_EXTRA_CA_CERTS": str(_SYSTEM_CERTIFICATES)} if _SYSTEM_CERTIFICATES.exists() else {}
    start(argv, log=home / "install.log", cwd=home, env=env | os.environ).wait_end(within_s=INSTALL_S)
    (home / "complete").touch()


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "ims-cache-proxy"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock on *path*; who holds it has a time limit of its own."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
