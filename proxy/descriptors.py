"""Open files: how many a process may have, and how many of them callers may take.

When they are all taken nobody gets in, operators and their health checks neither, and no call goes up: so callers leave
some for the others.
"""

from __future__ import annotations

import os
import resource
from typing import Final

# For the store, operators, IAM, files that are read again.
_OTHERS: Final = 128
_LEAST: Final = 16
_STANDARD_ERROR: Final = 2


def standard() -> None:
    """Open nothing where standard input, output or error were closed before this process began.

    What is opened next would get their numbers, and libuv takes one of them for a fault when it closes it.
    """
    while (opened := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:
        os.set_inheritable(opened, True)
    os.close(opened)


def raised() -> int:
    """Let this process, and those it starts, open as many files as the system lets it; return how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # some systems call unlimited what they don't give
        return soft
    return hard


def left_to_callers(limit: int, *, upstream: int) -> int:
    """Return how many connections callers may have of *limit* open files, beside *upstream* to the upstream."""
    if limit == resource.RLIM_INFINITY:
        return 1_000_000
    return max(_LEAST, limit - upstream - _OTHERS)
