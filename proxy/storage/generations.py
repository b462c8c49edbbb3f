"""Which generations in process memory are known to be those that Redis has.

Memory answers by itself only for listings all of whose scopes are known. What Redis just answered is taken over unless
news came meanwhile: the answer may be from before them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from proxy.core.cache_key import ListingKey
from proxy.storage.memory import MemoryStore

_MOST_KNOWN: Final = 10_000


class Generations:
    """Keeps the generations in *near* in step with Redis. *news* grows with everything that may have changed one."""

    def __init__(self, near: MemoryStore) -> None:
        self._near = near
        self._known: set[str] = set()
        self.news = 0

    def known(self, key: ListingKey) -> bool:
        """Whether the generation that memory has of *key* is the one in Redis, as far as news of others arrive."""
        return self._known.issuperset(key.scopes)

    def learn(self, key: ListingKey, generation: str, *, asked_at: int) -> None:
        """Take over the *generation* that Redis gave for *key*, unless news came since *asked_at*, the count before."""
        if asked_at != self.news or (self.known(key) and self._near.generation(key) == generation):
            return
        self._near.learn(dict(zip(key.scopes, generation.split("."), strict=True)))
        if len(self._known) > _MOST_KNOWN:
            self._known.clear()
        self._known.update(key.scopes)

    def written(self, scopes: Iterable[str]) -> None:
        """Know the generations of *scopes* no more: this replica saw a write, and has yet to tell Redis of it."""
        self.news += 1
        self._known.difference_update(scopes)

    def invalidated(self, scopes: Collection[str]) -> None:
        """Forget the generations of *scopes*, and learn them from Redis anew: it alone says which was drawn last.

        1. A draws one. 2. C fetches under it. 3. B draws another, tells it, and its write is answered. 4. A's news come
        late: to take over what they say would make C believe what it fetched before B's write.
        """
        self.written(scopes)
        self._near.forget(scopes)

    def lost(self) -> None:
        """Know nothing more: news may have been missed."""
        self.news += 1
        self._known.clear()
