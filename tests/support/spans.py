"""Keys and spans for the stores' tests."""

from __future__ import annotations

from dataclasses import replace

from proxy.core.cache_key import CacheKey
from proxy.core.partition import Partition
from proxy.core.span import LIST_START, Span
from proxy.storage.base import SpanStore
from proxy.storage.tiered import TieredStore
from tests.support.model import Model

ROWS = tuple("abcdefghijkl")
MODEL = Model(ROWS)
ALPHA = Partition("token", "a" * 32)
BETA = Partition("token", "b" * 32)
KEY = CacheKey(ALPHA, "", "/v2/images", "visibility=public")
NOW = 1_767_225_600.0


def a_span(after: str = LIST_START, limit: int = 4, *, fetched_at: float = NOW, generation: str = "") -> Span:
    """Return the span that the reference listing gives after *after*."""
    return replace(MODEL.span(after, limit, fetched_at=fetched_at), generation=generation)


async def keep(store: SpanStore, *spans: Span, key: CacheKey = KEY, keep_s: float = 60.0, now: float = NOW) -> None:
    """Put *spans* into *store*, under the generation that it has now."""
    generation = (await store.lookup(key, LIST_START, 1, now=now)).state.generation
    for span in spans:
        await store.put(key, replace(span, generation=generation), keep_s=keep_s, now=now)
    if isinstance(store, TieredStore):
        await store.flush()


async def chained(
    store: SpanStore, after: str = LIST_START, count: int = 100, *, key: CacheKey = KEY, now: float = NOW
) -> list[tuple[str, int]]:
    """Return the pieces that *store* finds, as marker and position."""
    found = await store.lookup(key, after, count, now=now)
    return [(piece.span.marker, piece.start) for piece in found.slices]
