"""Which resources are answered from the store, each with what holds for it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from proxy.core.page import EXTENSION_PATH, NATIVE_PATH
from proxy.core.rfc9111.stored import Policy

# A path that other servers may read otherwise than it is spelt: an escape, an empty or dotted segment, a parameter.
_ODD: Final = re.compile(r"[%;\\]|//|/\.{1,2}(?:/|$)", re.ASCII)
_DATA: Final = re.compile(r"/v2/images/[^/]+/file", re.ASCII)
IMAGES: Final = "/v2/images/*"
_LONGEST_CHARS: Final = 512  # a pattern with several stars is tried at many places of a path


@dataclass(frozen=True, slots=True)
class ResourceRoute:
    """Resources whose path is like *path*: `*` stands for one segment or a part of it, `**` for any number of them.

    *transient_ttl_s* is the lifetime while a job that was begun lately may change images. A *public* answer belongs to
    no partition: everyone gets it. With *vary* all that a caller sends goes up, and the upstream's `Vary` says what of
    it counts; without it, little goes up, and all of that counts. Where answers are *json*, a 200 that is none, such as
    a page of something in between, is not kept.
    """

    path: str
    policy: Policy
    public: bool = False
    vary: bool = False
    transient_ttl_s: float = 0.0
    json: bool = False
    pattern: re.Pattern[str] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        spelt = "".join(map(_spelt, re.split(r"(\*\*|\*)", self.path)))
        object.__setattr__(self, "pattern", re.compile(spelt, re.ASCII))

    @property
    def images(self) -> bool:
        """Whether these are images, which may be about to change."""
        return self.path == IMAGES


@dataclass(frozen=True, slots=True)
class ResourceRoutes:
    """Routes in order; the first that matches counts."""

    routes: Sequence[ResourceRoute] = ()

    def route(self, path: str) -> ResourceRoute | None:
        """Return what holds for the raw *path*, None where it is none to be stored: a list, an image's data."""
        if (
            len(path) > _LONGEST_CHARS
            or path in (NATIVE_PATH, EXTENSION_PATH)
            or _DATA.fullmatch(path)
            or _ODD.search(path)
        ):
            return None
        return next((each for each in self.routes if each.pattern.fullmatch(path)), None)


NO_RESOURCES: Final = ResourceRoutes()


def _spelt(part: str) -> str:
    return {"*": "[^/]+", "**": ".*"}.get(part) or re.escape(part)
