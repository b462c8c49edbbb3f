"""Who wants a call to the upstream, and how urgently."""

from __future__ import annotations

from dataclasses import replace
from enum import IntEnum
from typing import Final

from proxy.core.values import immutable


class Priority(IntEnum):
    """The classes of calls, the most urgent first."""

    WRITE = 0
    INTERACTIVE = 1
    BATCH = 2
    REVALIDATION = 3
    PREFETCH = 4

    @property
    def label(self) -> str:
        """The word that stands in metrics."""
        return self.name.lower()


# The purposes of calls whose answers no caller waits for.
_BACKGROUND_PRIORITIES: Final = {"revalidate": Priority.REVALIDATION, "prefetch": Priority.PREFETCH}


@immutable
class CallContext:
    """*caller* is who shares fairly with others, *partition* whose budget the call counts towards.

    One that is not *may_wait* takes a call that is free now, or none: nobody waits for it, or something stale will do.
    """

    priority: Priority = Priority.INTERACTIVE
    caller: str = ""
    partition: str = ""
    may_wait: bool = True

    def for_purpose(self, purpose: str) -> CallContext:
        """Return the claimant of a call that is counted as *purpose*: of lower rank, and impatient, if nobody waits."""
        priority = _BACKGROUND_PRIORITIES.get(purpose)
        return self if priority is None else replace(self, priority=priority, may_wait=False)


DEFAULT_CONTEXT: Final = CallContext()
