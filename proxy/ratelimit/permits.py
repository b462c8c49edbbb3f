"""How many calls are under way at once: as many as there are connections to the upstream."""

from __future__ import annotations

from collections.abc import Callable


class Permits:
    """Counts calls under way up to *limit*. *freed* is called when there may be room again."""

    def __init__(self, limit: int, *, freed: Callable[[], None]) -> None:
        self.limit = limit
        self.under_way = 0
        self._freed = freed

    @property
    def is_free(self) -> bool:
        """Whether there is one to take."""
        return self.under_way < self.limit

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
