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

from tests.support.processes import ProgramError, start

Say = Callable[[str], None]

BUILD_S = 600.0
_LOCK_POLL_S = 0.5
_BEAT_S = 15.0


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
        with _locked(home.with_suffix(".lock"), within_s=BUILD_S, say=say) as lock:
            if not mark.exists():
                shutil.rmtree(home, ignore_errors=True)
                _build(home, requirements, lock=lock, say=say)
                mark.touch()
    return home


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "ims-cache-proxy"


@contextlib.contextmanager
def _locked(path: Path, *, within_s: float, say: Say) -> Iterator[int]:
    """Hold the lock on *path*, yielding its descriptor: while a child has that open too, the lock outlives us."""
    deadline = time.monotonic() + within_s
    beat_at = time.monotonic()
    with path.open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ProgramError(f"{path.name}: held by another run for {within_s:g}s") from None
                if time.monotonic() >= beat_at:
                    say(f"{path.name}: held by another run, waiting")
                    beat_at += _BEAT_S
                time.sleep(_LOCK_POLL_S)
        yield lock.fileno()


def _build(home: Path, requirements: Path, *, lock: int, say: Say) -> None:
    began = time.monotonic()

    def step(*argv: str | Path) -> None:
        start(argv, log=home.with_suffix(".log"), env=_without_python_settings(), inherited=(lock,)).wait_end(
            within_s=BUILD_S - (time.monotonic() - began),
            beat=lambda: say(f"{home.name}: still installing, {time.monotonic() - began:.0f}s"),
            beat_s=_BEAT_S,
        )

    say(f"{home.name}: installing {requirements.parent.name} and what it needs, once (a minute or two)")
    step(sys.executable, "-m", "venv", home)
    pip = (home / "bin" / "python", "-m", "pip", "--quiet", "--no-input", "--disable-pip-version-check")
    step(
        *pip,
        "--retries",
        "10",
        "--timeout",
        "30",
        "install",
        "--no-deps",
        "--no-compile",
        "--requirement",
        requirements,
    )
    say(f"{home.name}: installed in {time.monotonic() - began:.0f}s")


def _without_python_settings() -> Mapping[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
