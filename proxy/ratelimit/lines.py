"""Lines before the upstream: who waits in each, and what is known of the budget that it waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from proxy.core.call_context import Claimant, Priority
from proxy.core.values import immutable
from proxy.ratelimit.waiting import Waiting

_MOST_LINES: Final = 10_000


@immutable
class Turn:
    """Leave to make one call now, of the budget *scope*. *permitted* says that a permit goes with it."""

    scope: str
    lease: str
    given_at: float
    permitted: bool


@immutable
class Queues:
    """The lines before the upstream: of *budgets*, one a line, so many run *low* and so many gates are *closed*.

    The last of these opens in *closed_s* seconds, or is found open before. *waiting* is how many calls wait.
    """

    budgets: int
    low: int
    closed: int
    closed_s: float
    waiting: int


@dataclass(eq=False, slots=True)
class Ticket:
    """A place in a line, from when it *began* until its *deadline*; *turn* is what comes of it."""

    claimant: Claimant
    began: float
    deadline: float
    turn: asyncio.Future[Turn]


@dataclass(slots=True)
class Line:
    """The line for one budget: its *tickets*, and what is known of the budget, as times by the clock.

    Until *not_before* there is no call for a class; until *low_until* the budget counts as low, and until
    *closed_until* its gate is closed. *server* is there as long as somebody waits; *changed* wakes it.
    """

    waiting: Waiting[Ticket] = field(default_factory=Waiting)
    tickets: set[Ticket] = field(default_factory=set)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    server: asyncio.Task[None] | None = None
    not_before: dict[Priority, float] = field(default_factory=dict)
    low_until: float = 0.0
    closed_until: float = 0.0

    def wait_s(self, priority: Priority, now: float) -> float:
        """Return how long there is no call for a class: as long as for any class that is more urgent, at least."""
        return max(0.0, *(until - now for each, until in self.not_before.items() if each <= priority), 0.0)

    def leave(self, ticket: Ticket, *, served: bool) -> None:
        """Take *ticket* out, if it is in; where it was *served* it is the other callers' turn."""
        self.waiting.remove(ticket.claimant, ticket, served=served)
        self.tickets.discard(ticket)


class Lines:
    """One line for each budget, by its scope; those that nobody stands in are forgotten where there are too many."""

    def __init__(self) -> None:
        self._lines: dict[str, Line] = {}

    def __iter__(self) -> Iterator[Line]:
        return iter(self._lines.values())

    def known(self, scope: str) -> Line | None:
        """Return the line for the budget *scope*, None where nobody has stood in it of late."""
        return self._lines.get(scope)

    def line(self, scope: str, *, now: float) -> Line:
        """Return the line for the budget *scope*."""
        line = self._lines.get(scope)
        if line is not None:
            return line
        if len(self._lines) >= _MOST_LINES:
            kept = {at: each for at, each in self._lines.items() if each.tickets or each.server or each.low_until > now}
            self._lines = kept
        line = self._lines[scope] = Line()
        return line

    def queues(self, *, waiting: int, now: float) -> Queues:
        """Return how all lines stand, in which *waiting* calls wait."""
        closed = [line.closed_until - now for line in self if line.closed_until > now]
        low = sum(line.low_until > now for line in self)
        return Queues(len(self._lines), low, len(closed), max(closed, default=0.0), waiting)
