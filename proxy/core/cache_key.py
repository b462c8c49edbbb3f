"""What an answer is stored under. Everything the upstream gets to see of a cacheable request stands in the key."""

from __future__ import annotations

import hashlib
from dataclasses import field
from functools import lru_cache
from typing import Final

from proxy.core.list_query import Window
from proxy.core.partition import Partition, delimited
from proxy.core.values import immutable

EVERYTHING: Final = "all"
_REMEMBERED_CHARS: Final = 1024


@immutable
class ListingKey:
    """Names a listing: who asks, which form of the API, which path, which filters and order.

    *page* is None for a listing whose pages are windows of one order. Where they are not, each page is a listing of
    its own, and *page* says which. *scopes* are the invalidations that touch it, widest first.
    """

    partition: Partition
    variant: str
    path: str
    query: str
    page: Window | None = None
    digest: str = field(init=False, compare=False)
    scopes: tuple[str, ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        page = () if self.page is None else (str(self.page.limit), self.page.marker or "")
        parts = (self.partition.kind, self.partition.digest, self.variant, self.path, self.query, *page)
        of_project = () if self.partition.project is None else (project_scope(self.partition.project),)
        scopes = (EVERYTHING, partition_scope(self.partition), *of_project, listing_scope(self.path, self.query))
        object.__setattr__(self, "digest", digest(parts))
        object.__setattr__(self, "scopes", scopes)


def partition_scope(partition: Partition) -> str:
    """Return the scope of all listings of *partition*."""
    return f"partition:{partition.digest}"


def project_scope(project: str) -> str:
    """Return the scope of all listings whose partitions see *project*; see `Partition.project`."""
    return f"project:{project}"


def listing_scope(path: str, query: str) -> str:
    """Return the scope of the listing with the canonical *query*, whoever asks for it."""
    return f"listing:{digest((path, query))}"


def digest(parts: tuple[str, ...]) -> str:
    """Return 32 hex digits that stand for *parts*. Those of short ones are remembered."""
    return _remembered(parts) if sum(map(len, parts)) <= _REMEMBERED_CHARS else _digest(parts)


def _digest(parts: tuple[str, ...]) -> str:
    return hashlib.blake2b(delimited(parts), digest_size=16).hexdigest()


_remembered = lru_cache(maxsize=8192)(_digest)
