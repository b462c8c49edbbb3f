"""Which writes may change which lists.

A write is known by its method and path alone: which projects see the image that it changed stands in no request. So
what is seen here says whether lists change, and the identity says whose.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})  # methods that ask for no change (RFC 9110 §9.2.1)
# Loose on purpose: the upstream also takes `//v2/images` and `/v2/%69mages`, and a write too many costs a refetch.
_IMAGE_PATH: Final = re.compile(r"images|tasks|%", re.ASCII | re.IGNORECASE)


# A gateway before the API that heard nothing, or nonsense, from it (RFC 9110 §15.6.3, §15.6.5): of a write that went
# through it nobody knows whether it was done.
_UNKNOWN_OUTCOME: Final = frozenset({502, 504})


class WriteEffect(Enum):
    """What a write that the upstream accepted does to lists."""

    NOTHING = "nothing"
    CHANGED = "changes"
    JOB_STARTED = "begins"  # a job that will change them again when it ends


def effective_status(status: int) -> int:
    """Return the status that a write is taken to have ended with: one whose end nobody knows counts as done."""
    return 200 if status in _UNKNOWN_OUTCOME else status


def write_effect(method: str, path: str, status: int) -> WriteEffect:
    """Return what the request did to lists, by its raw *path* and the *status* that the upstream answered with.

    Only an accepted write counts; a redirect is none. A 202 says that more is to come (RFC 9110 §15.3.3), and so do
    the jobs of `/v1/cloudimages` and `/v2/cloudimages`.
    """
    if method in SAFE_METHODS or not 200 <= status < 300 or not _IMAGE_PATH.search(path):
        return WriteEffect.NOTHING
    return WriteEffect.JOB_STARTED if status == 202 or "cloudimages" in path.lower() else WriteEffect.CHANGED
