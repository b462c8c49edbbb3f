"""Access logs as lines of text: plain or gzip, files or standard input, readable more than once."""

from __future__ import annotations

import gzip
import io
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Final

_GZIP_MAGIC: Final = b"\x1f\x8b"
_MAX_LINE_BYTES: Final = 1 << 20
_MAX_SPOOLED_IN_MEMORY_BYTES: Final = 64 * 1024 * 1024
_LINES_PER_PROGRESS_UPDATE: Final = 1_000  # lines between two words about how far it is


class AccessLogError(Exception):
    """A log that can't be read to its end; the message says which, why, and how far it was."""


class AccessLog:
    """The log at *path*, `-` being standard input; what can be read only once is kept aside. Raises
    `AccessLogError`.
    """

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        try:
            opened = sys.stdin.buffer if self.name == "-" else path.open("rb")
            self._file: IO[bytes] = opened if opened.seekable() else _spool(opened)
            self.size_bytes = self._file.seek(0, io.SEEK_END)
        except OSError as error:
            raise AccessLogError(f"{self.name}: {error.strerror or 'not readable'}") from error

    def read_lines(self, on_progress: Callable[[int], None]) -> Iterator[str]:
        """Yield the lines from the first on; *on_progress* is told now and then how many bytes of the file were read.

        What is no UTF-8 in a line is put in a form that is. Of one that is too long only the beginning is given.
        """
        self._file.seek(0)
        packed = self._file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
        self._file.seek(0)
        source: IO[bytes] = gzip.GzipFile(fileobj=self._file, mode="rb") if packed else self._file  # type: ignore[assignment]
        count = 0
        try:
            while line := source.readline(_MAX_LINE_BYTES):
                if not line.endswith(b"\n") and len(line) == _MAX_LINE_BYTES:
                    _skip_rest_of_line(source)
                count += 1
                if count % _LINES_PER_PROGRESS_UPDATE == 0:
                    on_progress(self._file.tell())
                yield line.decode("utf-8", "backslashreplace").strip()
        except (OSError, EOFError, zlib.error) as error:
            reason = "ends in the middle of its gzip" if isinstance(error, EOFError) else _error_reason(error)
            raise AccessLogError(f"{self.name}: {reason}, after line {count:,}") from error

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def _error_reason(error: OSError | zlib.error) -> str:
    return "broken gzip" if isinstance(error, zlib.error | gzip.BadGzipFile) else error.strerror or "not readable"


def _skip_rest_of_line(source: IO[bytes]) -> None:
    while (rest := source.readline(_MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
        pass


def _spool(source: IO[bytes]) -> IO[bytes]:
    spooled = tempfile.SpooledTemporaryFile(_MAX_SPOOLED_IN_MEMORY_BYTES)  # noqa: SIM115 - closed with the log
    shutil.copyfileobj(source, spooled)
    return spooled
