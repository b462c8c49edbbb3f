"""Text in files that people and their tools write: settings, secrets, callers."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Final

_MOST_BYTES: Final = 1024 * 1024


def text(path: Path) -> str:
    """Return the text in *path*, UTF-8 whatever the locale, without the mark that some editors put before it.

    Raises `OSError`, which says why, where it can't be read, is no text, or does not end.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_MOST_BYTES + 1)
    except ValueError:  # a NUL in it
        raise OSError(errno.EINVAL, "no name of a file") from None
    if len(raw) > _MOST_BYTES:
        raise OSError(errno.EFBIG, f"longer than {_MOST_BYTES} bytes")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise OSError(errno.EILSEQ, "no text in UTF-8") from None
