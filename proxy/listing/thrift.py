"""What is left undone while a budget runs low: fetches that no caller waits for."""

from __future__ import annotations

from collections.abc import Callable

from proxy.core.values import immutable


@immutable
class Thrift:
    """*low* says of a partition whether its budget runs low; *saved* is told the purpose of each fetch left undone."""

    low: Callable[[str], bool] = lambda _: False
    saved: Callable[[str], None] = lambda _: None

    def forbids(self, purpose: str, partition: str) -> bool:
        """Return whether a fetch for *purpose* has to be left undone, and count it if so."""
        if not self.low(partition):
            return False
        self.saved(purpose)
        return True
