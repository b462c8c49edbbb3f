"""What goes first when memory is full: a segmented LRU (Karedla, Love, Wherry: Caching strategies, 1994).

What is new is on probation; what is used again is protected from all that comes after it. A flood of queries that
nobody repeats passes through probation, and leaves alone what is asked for often.

Clients often ask for a thing twice in a row and never again. So a use counts as another only once something has come
in since, a twentieth of what there is room for (the correlated references of O'Neil, O'Neil, Weikum: LRU-K, 1993).
Without that, a flood in which each query comes twice is worse for a segmented LRU than for a plain one. With it, it
keeps as much of what is asked for often as W-TinyLFU does, which would have to count every look-up in a sketch:
`tests/storage/test_segmented_lru.py` compares them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

_PROTECTED_SHARE: Final = 0.8
_CORRELATED_SHARE: Final = 0.05


class SegmentedLRU(Generic[Key]):
    """The order in which keys go, and how much they take: never more than *max_bytes*."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._max_protected_bytes = int(max_bytes * _PROTECTED_SHARE)
        self._correlated = int(max_bytes * _CORRELATED_SHARE)
        self._probation: OrderedDict[Key, int] = OrderedDict()
        self._since: dict[Key, int] = {}  # of what is on probation: how much had been added when it was
        self._added_bytes = 0
        self._protected: OrderedDict[Key, int] = OrderedDict()
        self._protected_bytes = 0
        self.stored_bytes = 0

    def __contains__(self, key: Key) -> bool:
        return key in self._probation or key in self._protected

    def __len__(self) -> int:
        return len(self._probation) + len(self._protected)

    def add(self, key: Key, size_bytes: int) -> list[Key]:
        """Take *key* in, or its new size, and return the keys that have to go for it: itself if it is too big.

        What takes the place of something protected is protected.
        """
        known = key in self._protected
        self.remove(key)
        if size_bytes > self.max_bytes:
            return [key]
        self._added_bytes += size_bytes
        self._probation[key] = size_bytes
        self._since[key] = self._added_bytes
        self.stored_bytes += size_bytes
        if known:
            self._protect(key)
        return self._evict(key)

    def use(self, key: Key) -> None:
        """Note that *key* was asked for again."""
        if key in self._protected:
            self._protected.move_to_end(key)
        elif self._added_bytes - self._since[key] > self._correlated:
            self._protect(key)

    def _protect(self, key: Key) -> None:
        """Move *key* from probation to what is protected, and from there back as much as exceeds its share."""
        self._protected[key] = self._probation.pop(key)
        del self._since[key]
        self._protected_bytes += self._protected[key]
        while self._protected_bytes > self._max_protected_bytes:
            oldest, size_bytes = self._protected.popitem(last=False)
            self._protected_bytes -= size_bytes
            self._probation[oldest] = size_bytes
            self._since[oldest] = 0  # it has been used before: the next time counts

    def remove(self, key: Key) -> None:
        """Forget *key*, if it is known."""
        self._since.pop(key, None)
        size_bytes = self._probation.pop(key, None)
        if size_bytes is None:
            size_bytes = self._protected.pop(key, 0)
            self._protected_bytes -= size_bytes
        self.stored_bytes -= size_bytes

    def _evict(self, newcomer: Key) -> list[Key]:
        """Remove the oldest on probation, then the oldest of all, but not *newcomer*, until the rest fits."""
        gone: list[Key] = []
        while self.stored_bytes > self.max_bytes:
            oldest = next((key for key in self._probation if key != newcomer), None)
            if oldest is None:
                oldest = next(key for key in self._protected if key != newcomer)
            self.remove(oldest)
            gone.append(oldest)
        return gone
