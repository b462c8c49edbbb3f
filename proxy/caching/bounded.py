"""What a process remembers for a while besides spans, bounded: the oldest goes first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Memo(Generic[Value]):
    """At most *most* values, each until its time is over."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[Hashable, tuple[Value, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Hashable, *, now: float) -> Value | None:
        """Return what is remembered for *key* at *now*, epoch seconds."""
        value, until = self._values.get(key, (None, 0.0))
        return value if now < until else None

    def put(self, key: Hashable, value: Value, *, until: float) -> None:
        """Remember *value* for *key* until then, epoch seconds."""
        self._values.pop(key, None)
        self._values[key] = (value, until)
        while len(self._values) > self._most:
            self._values.popitem(last=False)

    def forget(self, key: Hashable) -> None:
        """Remember nothing for *key*."""
        self._values.pop(key, None)
