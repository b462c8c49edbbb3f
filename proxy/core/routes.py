"""Which kind of request this is, by method and raw path, and why some lists are not answered from the store.

A path counts only when it is spelt exactly as the API spells it: Glance lists at `//v2/images` and `/v2/%69mages` too,
and those go through as they came.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

from proxy.core.list_api import CLOUDIMAGES_PATH, IMAGES_PATH
from proxy.core.messages import Request


class Route(Enum):
    """The label of a request in metrics and logs."""

    LIST = "list"
    CLOUDIMAGES_LIST = "cloudimages"
    VERSIONS = "versions"
    IMAGE = "image"
    IMAGE_DATA = "image-data"
    OTHER = "other"


_LIST_ROUTES: Final = {IMAGES_PATH: Route.LIST, CLOUDIMAGES_PATH: Route.CLOUDIMAGES_LIST}
_IMAGE_PATH: Final = re.compile(r"/v2(?:\.[0-9]+)?/images/[^/]+(/file)?", re.ASCII)
_PRECONDITIONS: Final = frozenset({"if-match", "if-unmodified-since"})


def classify_path(path: str) -> Route:
    """Return what the raw *path* names."""
    if path in _LIST_ROUTES:
        return _LIST_ROUTES[path]
    if path in ("/", "/versions", "/versions/"):
        return Route.VERSIONS
    if image := _IMAGE_PATH.fullmatch(path):
        return Route.IMAGE_DATA if image[1] else Route.IMAGE
    return Route.OTHER


def bypass_reason(request: Request) -> str | None:
    """Return why the list *request* can't be answered from the store whatever its query, None where it can."""
    if request.body is not None:
        return "body"
    if request.fields.contains_any(_PRECONDITIONS):
        return "precondition"
    return None
