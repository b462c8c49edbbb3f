"""Classifies a request by its raw path.

A path counts only if it is spelt exactly as the API spells it. Glance also lists at `//v2/images` and `/v2/%69mages`;
those are forwarded unchanged.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

from proxy.core.list_api import CLOUDIMAGES, LIST_APIS
from proxy.core.messages import Request
from proxy.core.values import immutable


class Route(Enum):
    """The label of a request in metrics and logs."""

    LIST = "list"
    CLOUDIMAGES_LIST = "cloudimages"
    VERSIONS = "versions"
    IMAGE = "image"
    IMAGE_DATA = "image-data"
    OTHER = "other"


_IMAGE_PATH: Final = re.compile(r"/v2(?:\.[0-9]+)?/images/[^/]+(/file)?", re.ASCII)
_PRECONDITIONS: Final = frozenset({"if-match", "if-unmodified-since"})


@immutable
class Forward:
    """A request that goes to the upstream as it came, for this *reason*: the `detail` of its `Cache-Status`."""

    reason: str


def classify_path(path: str) -> Route:
    if path in LIST_APIS:
        return Route.CLOUDIMAGES_LIST if path == CLOUDIMAGES.path else Route.LIST
    if path in ("/", "/versions", "/versions/"):
        return Route.VERSIONS
    if image := _IMAGE_PATH.fullmatch(path):
        return Route.IMAGE_DATA if image[1] else Route.IMAGE
    return Route.OTHER


def bypass_reason(request: Request) -> str | None:
    """Return why this list request can't be answered from the cache whatever its query, None if it can."""
    if request.body is not None:
        return "body"
    if request.fields.contains_any(_PRECONDITIONS):
        return "precondition"
    return None
