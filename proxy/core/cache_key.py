"""Cache keys. Everything that the upstream sees of a cacheable request is in the key (law 1)."""

from __future__ import annotations

import hashlib
from dataclasses import field
from functools import lru_cache
from typing import Final

from proxy.core.list_query import Window
from proxy.core.partition import Partition, length_prefixed
from proxy.core.values import immutable

ALL_TAG: Final = "all"
_MAX_CACHED_CHARS: Final = 1024


@immutable
class CacheKey:
    """Names a listing: who asks, which variant of the API, which path, which filters and order.

    *page_window* is None for a listing whose pages are windows of one order. Where they are not, each page is a listing
    of its own, and *page_window* says which. *tags* are the invalidations that touch it, widest first.
    """

    partition: Partition
    variant: str
    path: str
    query: str
    page_window: Window | None = None
    digest: str = field(init=False, compare=False)
    tags: tuple[str, ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        page = () if self.page_window is None else (str(self.page_window.limit), self.page_window.marker or "")
        parts = (self.partition.kind, self.partition.digest, self.variant, self.path, self.query, *page)
        of_project = () if self.partition.project is None else (project_tag(self.partition.project),)
        tags = (ALL_TAG, partition_tag(self.partition), *of_project, listing_tag(self.path, self.query))
        object.__setattr__(self, "digest", digest(parts))
        object.__setattr__(self, "tags", tags)


def partition_tag(partition: Partition) -> str:
    """Return the tag of all listings of *partition*."""
    return f"partition:{partition.digest}"


def project_tag(project: str) -> str:
    """Return the tag of all listings whose partitions see *project*; see `Partition.project`."""
    return f"project:{project}"


def listing_tag(path: str, query: str) -> str:
    """Return the tag of the listing with the canonical *query*, whoever asks for it."""
    return f"listing:{digest((path, query))}"


def digest(parts: tuple[str, ...]) -> str:
    """Return the BLAKE2b digest of *parts*, 32 hex digits; those of short ones are cached."""
    return _cached_digest(parts) if sum(map(len, parts)) <= _MAX_CACHED_CHARS else _compute_digest(parts)


def _compute_digest(parts: tuple[str, ...]) -> str:
    return hashlib.blake2b(length_prefixed(parts), digest_size=16).hexdigest()


_cached_digest = lru_cache(maxsize=8192)(_compute_digest)
