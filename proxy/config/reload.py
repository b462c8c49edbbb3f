"""Reads files that change while the proxy runs: secrets that rotate, certificates, callers that come and go."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Generic, TypeVar

from proxy.observability.logging import log_event

_MAX_BYTES: Final = 1024 * 1024


def read_text(path: Path) -> str:
    """Return the text in *path*, UTF-8 whatever the locale, without the mark that some editors put before it.

    Raises `OSError`, which says why, where it can't be read, is no text, or does not end.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except ValueError:  # a NUL in it
        raise OSError(errno.EINVAL, "no name of a file") from None
    if len(raw) > _MAX_BYTES:
        raise OSError(errno.EFBIG, f"longer than {_MAX_BYTES} bytes")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise OSError(errno.EILSEQ, "no text in UTF-8") from None


T = TypeVar("T")

CHECK_INTERVAL_S: Final = 1.0


class ReloadedValue(Generic[T]):
    """What *load* makes of *files*, looked at again after *LOOK_S* at the earliest. *clock* never steps back.

    Files that can't be used leave what was there before; at first they raise `OSError`, or what *load* raises.
    Where they are only of use *wait_until_stable*, such as a key and its secret, a change counts when the next look
    finds no other: they may be written one after the other.
    """

    def __init__(
        self,
        files: Iterable[Path],
        load: Callable[[], T],
        *,
        wait_until_stable: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._files = tuple(files)
        self._wait_until_stable = wait_until_stable
        self._load = load
        self._clock = clock
        self._checked_at = clock()
        self._loaded_stamps = self._latest_stamps = self._read_stamps()
        self._value = load()

    def __call__(self) -> T:
        """Return what the files hold."""
        now = self._clock()
        if now - self._checked_at >= CHECK_INTERVAL_S:
            self._checked_at = now
            self._check()
        return self._value

    def _check(self) -> None:
        try:
            before, self._latest_stamps = self._latest_stamps, self._read_stamps()
            stamps = self._latest_stamps
            if stamps == self._loaded_stamps or (self._wait_until_stable and stamps != before):
                return
            self._value = self._load()
            self._loaded_stamps = stamps
        except (OSError, ValueError) as error:
            named = ", ".join(map(str, self._files))
            log_event("file_reload_failed", level=logging.WARNING, file=named, error=type(error).__name__)

    def _read_stamps(self) -> tuple[tuple[int, int, int], ...]:
        """Return what changes with the files; Kubernetes swaps a link, and so the inodes."""
        found = [file.stat() for file in self._files]
        return tuple((each.st_ino, each.st_mtime_ns, each.st_size) for each in found)


def single_line(text: str) -> str:
    """Return the one line of a secret's file; raises `ValueError` where there is none, as amid a renewal."""
    held = text.strip()
    if not held or not held.isprintable():
        raise ValueError("not one line")
    return held


class ReloadedFile(ReloadedValue[T]):
    """What *parse* makes of the text of a file; see `ReloadedValue`."""

    def __init__(self, path: Path, parse: Callable[[str], T], *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__([path], lambda: parse(read_text(path)), clock=clock)
