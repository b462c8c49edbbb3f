"""Open files: how many a process may have, and how many of them callers may take.

When all are taken nobody gets in, not even operators and their health checks, and no call can be made upstream. So
callers don't get all of them.
"""

from __future__ import annotations

import resource
from typing import Final

# For the store, operators, IAM, files that are read again.
_RESERVED_FILES: Final = 128
_MIN_CONNECTIONS: Final = 16


def raise_open_file_limit() -> int:
    """Let this process, and those it starts, open as many files as the system lets it; return how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # some systems call unlimited what they don't give
        return soft
    return hard


def max_client_connections(open_file_limit: int, *, upstream_connections: int) -> int:
    """Return how many connections callers may have of *open_file_limit* open files, beside *upstream_connections* to
    the upstream.
    """
    if open_file_limit == resource.RLIM_INFINITY:
        return 1_000_000
    return max(_MIN_CONNECTIONS, open_file_limit - upstream_connections - _RESERVED_FILES)
