"""How many calls are under way: an upper bound that follows what the upstream can bear."""

from __future__ import annotations

from collections.abc import Callable

from proxy.core.concurrency import Concurrency


class Permits:
    """Counts calls under way against a `Concurrency`. *freed* is called when there may be room again."""

    def __init__(self, most: int, *, freed: Callable[[], None]) -> None:
        self._concurrency = Concurrency(most)
        self._freed = freed
        self.under_way = 0

    @property
    def limit(self) -> int:
        """How many calls may be under way."""
        return self._concurrency.calls

    def take(self) -> bool:
        """Take a permit, if there is one."""
        if self.under_way >= self.limit:
            return False
        self.under_way += 1
        return True

    def give_back(self) -> None:
        """Give a permit back."""
        self.under_way -= 1
        self._freed()

    def answered(self, elapsed_s: float) -> None:
        """An answer took *elapsed_s*."""
        self._concurrency = self._concurrency.answered(elapsed_s, under_way=self.under_way)

    def failed(self) -> None:
        """A call was not answered, or the upstream said that it is overloaded."""
        self._concurrency = self._concurrency.failed()
