"""Files that change while the proxy runs: secrets that rotate, callers that come and go."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

from proxy.telemetry import event

Value = TypeVar("Value")

LOOK_S: Final = 1.0


class Watched(Generic[Value]):
    """What *parse* makes of a file, looked at again after *LOOK_S* at the earliest. *clock* never steps back.

    A file that can't be used leaves what was there before; at first it raises `OSError`, or what *parse* raises.
    """

    def __init__(
        self, path: Path, parse: Callable[[str], Value], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = path
        self._parse = parse
        self._clock = clock
        self._looked_at = clock()
        self._stamp = self._stamped()
        self._value = parse(path.read_text())

    def __call__(self) -> Value:
        """Return what the file holds."""
        now = self._clock()
        if now - self._looked_at >= LOOK_S:
            self._looked_at = now
            self._look()
        return self._value

    def _look(self) -> None:
        try:
            stamp = self._stamped()
            if stamp == self._stamp:
                return
            self._value = self._parse(self._path.read_text())
            self._stamp = stamp
        except (OSError, ValueError) as error:
            event("file-not-used", level=logging.WARNING, file=str(self._path), error=type(error).__name__)

    def _stamped(self) -> tuple[int, int, int]:
        """Return what changes with the file; Kubernetes swaps a link, and so the inode."""
        found = self._path.stat()
        return found.st_ino, found.st_mtime_ns, found.st_size
