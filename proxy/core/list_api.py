"""The list APIs as data. Adding one means adding an entry to `LIST_APIS`; the engine needs no change.

Sources: IMS API reference, "Querying Images" and "Image Attributes"; Glance api/v2/images.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from enum import Enum
from types import MappingProxyType
from typing import Final

import orjson

from proxy.core.values import immutable


class ParameterRole(Enum):
    """What a query parameter does to a list request. Unknown ones are filters: in Glance they match properties."""

    FILTER = "filter"  # repeated values keep their order: usually the last wins
    SET = "set"  # repeated values must all match, so their order says nothing
    SORT = "sort"  # repeated values are ranked by their order
    WINDOW = "window"  # which page of the listing, not which listing


_GLANCE_PARAMETERS: Final[Mapping[str, ParameterRole]] = MappingProxyType(
    {
        "limit": ParameterRole.WINDOW,
        "marker": ParameterRole.WINDOW,
        "sort": ParameterRole.SORT,
        "sort_key": ParameterRole.SORT,
        "sort_dir": ParameterRole.SORT,
        "tag": ParameterRole.SET,
    }
)


@immutable
class ListApi:
    """One list API.

    *collection* is the name of the array in its answers. With *gives_next* an answer has `first`, `next` and *schema*
    links; without it clients page by the last id they saw, and only an empty page is the end. *default_limit* is the
    page size without `limit`. With *varies_by_user* users of one project may get different lists.
    With *has_public_items*, `visibility=public` selects items that everybody may see. *item_path* is where
    its items live; links of an item that lead elsewhere are replaced by it (None: items keep their links).

    *query_defaults* are parameters that may be left out. Under *stable_sort_keys* no change of an item can move it, so
    spans fetched at different times may be joined. Under *total_order_sort_keys* pages are windows of one total order;
    other keys, such as Glance's `size`, which is null for queued images, are served page by page. *nullable_sort_keys*
    may be missing from an item; a span with such an item can't be cut. An item in one of *transient_statuses* is about
    to change.
    """

    path: str
    collection: str = "images"
    schema: str | None = "/v2/schemas/images"
    item_path: str | None = "/v2/images"
    gives_next: bool = True
    default_limit: int = 25
    varies_by_user: bool = False
    has_public_items: bool = True
    parameters: Mapping[str, ParameterRole] = field(default_factory=lambda: _GLANCE_PARAMETERS, hash=False)
    query_defaults: tuple[tuple[str, str], ...] = (("sort_key", "created_at"), ("sort_dir", "desc"))
    stable_sort_keys: frozenset[str] = frozenset({"created_at", "id"})
    total_order_sort_keys: frozenset[str] = frozenset(
        {"created_at", "id", "updated_at", "name", "status", "disk_format", "container_format"}
    )
    nullable_sort_keys: frozenset[str] = frozenset({"name", "disk_format", "container_format"})
    transient_statuses: frozenset[str] = frozenset({"queued", "saving", "importing", "uploading", "pending_delete"})

    def parameter_role(self, name: str) -> ParameterRole:
        return self.parameters.get(name, ParameterRole.FILTER)


IMAGES: Final = ListApi("/v2/images")
CLOUDIMAGES: Final = ListApi("/v2/cloudimages", schema=None, gives_next=False, default_limit=500, varies_by_user=True)

LIST_APIS: Final[dict[str, ListApi]] = {api.path: api for api in (IMAGES, CLOUDIMAGES)}


def is_transient_image(body: bytes) -> bool:
    """Return whether the image in *body* is about to change, or is no image."""
    try:
        status = orjson.loads(body)["status"]
    except (orjson.JSONDecodeError, TypeError, KeyError):
        return True
    return not isinstance(status, str) or status in IMAGES.transient_statuses
