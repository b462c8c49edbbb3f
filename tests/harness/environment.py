"""Virtual environments beside the project's own, built once from pinned requirements and shared by every later run."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tests.harness.processes import Argv, ProgramError, start

Say = Callable[[str], None]

BUILD_S = 300.0
_LOCK_POLL_S = 0.5


def environment(name: str, requirements: Path, *, say: Say) -> Path:
    """Return the directory of an environment that holds exactly *requirements*, building it where it is missing.

    It is built in place, under a lock that other test runs wait for, and counts only once its mark is set:
    an interrupted build is thrown away by the next one. Raises ProgramError when that takes over BUILD_S.
    """
    identity = requirements.read_bytes() + f"{sys.version} {sys.base_prefix}".encode()
    home = _cache() / f"{name}-{hashlib.sha256(identity).hexdigest()[:16]}"
    mark = home / "complete"
    if not mark.exists():
        home.parent.mkdir(parents=True, exist_ok=True)
        with _locked(home.with_suffix(".lock"), within_s=BUILD_S):
            if not mark.exists():
                shutil.rmtree(home, ignore_errors=True)
                _build(home, requirements, say=say)
                mark.touch()
    return home


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "ims-cache-proxy"


@contextlib.contextmanager
def _locked(path: Path, *, within_s: float) -> Iterator[None]:
    deadline = time.monotonic() + within_s
    with path.open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ProgramError(f"{path.name}: held by another run for {within_s:g}s") from None
                time.sleep(_LOCK_POLL_S)
        yield


def _build(home: Path, requirements: Path, *, say: Say) -> None:
    began = time.monotonic()
    say(f"{home.name}: installing {requirements.parent.name} and what it needs, once (a minute or two)")
    _step([sys.executable, "-m", "venv", home], home=home, left_s=BUILD_S, say=say)
    install: Argv = [
        *(home / "bin" / "python", "-m", "pip", "--quiet", "--no-input", "--disable-pip-version-check"),
        *("install", "--no-deps", "--no-compile", "--requirement", requirements),
    ]
    _step(install, home=home, left_s=BUILD_S - (time.monotonic() - began), say=say)
    say(f"{home.name}: installed in {time.monotonic() - began:.0f}s")


def _step(argv: Argv, *, home: Path, left_s: float, say: Say) -> None:
    began = time.monotonic()
    start(argv, log=home.with_suffix(".log"), env=_without_python_settings()).wait_end(
        within_s=left_s, beat=lambda: say(f"{home.name}: still installing, {time.monotonic() - began:.0f}s")
    )


def _without_python_settings() -> Mapping[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
