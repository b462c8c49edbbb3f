"""The catalogue of list parameters, as data (IMS API reference, "Querying Images"; Glance api/v2/images.py).

A parameter that is not in the catalogue is a property filter in Glance, so it changes the answer and is kept as it is.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class Role(Enum):
    """What a parameter does to a list request."""

    FILTER = "filter"  # repeated values keep their order: of most, the last wins
    SET = "set"  # repeated values must all match, so their order says nothing
    SORT = "sort"  # repeated values are ranked by their order
    WINDOW = "window"  # which page of the listing, not which listing


PARAMETERS: Final[dict[str, Role]] = {
    "limit": Role.WINDOW,
    "marker": Role.WINDOW,
    "sort": Role.SORT,
    "sort_key": Role.SORT,
    "sort_dir": Role.SORT,
    "tag": Role.SET,
}

# The only defaults that are the query's. Those of `container_format`, `disk_format` or `__isregistered` are an image's:
# leaving them out is another listing.
QUERY_DEFAULTS: Final = {"sort_key": "created_at", "sort_dir": "desc"}

# Sort keys under which an image never moves, so spans fetched at different moments may be joined in one page.
IMMOVABLE_SORT_KEYS: Final = frozenset({"created_at", "id"})

# Sort keys under which Glance pages are windows of one total order. `size` is NULL for queued images, and Glance then
# stops early or repeats, so it is served page by page; so is anything unknown.
WINDOWED_SORT_KEYS: Final = IMMOVABLE_SORT_KEYS | {"updated_at", "name", "status", "disk_format", "container_format"}

# Of those, the ones that an image may lack: a span that holds such an image is served only as the page it was.
NULLABLE_SORT_KEYS: Final = frozenset({"name", "disk_format", "container_format"})


def role(name: str) -> Role:
    """Return the role of the parameter *name*; whatever is not in the catalogue is a filter."""
    return PARAMETERS.get(name, Role.FILTER)
