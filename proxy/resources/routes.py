"""Which resources are answered from the store, each with what holds for it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import field
from typing import Final

from proxy.core.list_api import LIST_APIS
from proxy.core.values import immutable
from proxy.http.stored_response import FreshnessPolicy

# A path that other servers may read otherwise than it is spelt: an escape, an empty or dotted segment, a parameter.
_ODD: Final = re.compile(r"[%;\\]|//|/\.{1,2}(?:/|$)", re.ASCII)
_DATA: Final = re.compile(r"/v2/images/[^/]+/file", re.ASCII)
IMAGES: Final = "/v2/images/*"
_MAX_CHARS: Final = 512  # what a pattern with `**` takes grows with the square of a path's length


@immutable
class ResourceRoute:
    """Resources whose path is like *path*: `*` stands for one segment or a part of it, `**` for any number of them.

    *transient_ttl_s* is the lifetime while a job that was begun lately may change images. A *is_public* answer belongs
    to no partition: everyone gets it. With *by_vary* all that a caller sends goes up, and the upstream's `Vary` says
    which of it counts; without, little goes up, and all of that counts. With *requires_json* a 200 that is not JSON is
    not stored: it may be an error page of some server in between.
    """

    path: str
    policy: FreshnessPolicy
    is_public: bool = False
    by_vary: bool = False
    transient_ttl_s: float = 0.0
    requires_json: bool = False
    pattern: re.Pattern[str] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pattern", re.compile(_normalise_path(self.path), re.ASCII))

    @property
    def depends_on_images(self) -> bool:
        """Whether these are images, which may be about to change."""
        return self.path == IMAGES


@immutable
class ResourceRoutes:
    """Routes in order; the first that matches counts."""

    routes: Sequence[ResourceRoute] = ()

    def find(self, path: str) -> ResourceRoute | None:
        """Return what holds for the raw *path*, None where it is none to be stored: a list, an image's data."""
        if len(path) > _MAX_CHARS or path in LIST_APIS or _DATA.fullmatch(path) or _ODD.search(path):
            return None
        return next((each for each in self.routes if each.pattern.fullmatch(path)), None)


NO_RESOURCES: Final = ResourceRoutes()


def _normalise_path(path: str) -> str:
    """Return the regular expression of paths like *path*.

    A text between two stars need only be matched at its first place: if the rest matches behind a later place, it also
    does behind the first, for the star that follows can stand for what lies between. So the groups are atomic, and no
    place is tried twice, however many stars there are. Only the text after the last `**` is tried at every place.
    """
    first, *others = (run.split("*") for run in path.split("**"))
    if not others:
        return _segments(first, last=True)
    *middle, end = others
    inner = "".join(f"(?>.*?{_segments(run)})" for run in middle)
    return f"(?>{_segments(first)}){inner}.*{_segments(end, last=True)}"


def _segments(run: Sequence[str], *, last: bool = False) -> str:
    """Return the regular expression of the texts of *run* with a star between any two."""
    first, *others = map(re.escape, run)
    lazy = [f"(?>[^/]+?{text})" for text in others]
    if last and lazy:
        lazy[-1] = f"[^/]+{others[-1]}"  # it has to end where the path does
    return first + "".join(lazy)
