"""Who is next: the most urgent class first, and inside a class one call for each caller in turn."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar

from proxy.core.call_context import Claimant, Priority

Ticket = TypeVar("Ticket")


class Waiting(Generic[Ticket]):
    """Tickets by class and caller. A caller with five hundred tickets is served as often as one with a single one."""

    def __init__(self) -> None:
        self._callers: dict[Priority, OrderedDict[str, deque[Ticket]]] = {each: OrderedDict() for each in Priority}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def count(self, priority: Priority) -> int:
        """Return how many of a class wait."""
        return sum(len(tickets) for tickets in self._callers[priority].values())

    def add(self, claimant: Claimant, ticket: Ticket) -> None:
        """Put *ticket* behind the others of its caller."""
        self._callers[claimant.priority].setdefault(claimant.caller, deque()).append(ticket)
        self._count += 1

    def first(self) -> Ticket | None:
        """Return who is next."""
        for callers in self._callers.values():
            for tickets in callers.values():
                return tickets[0]
        return None

    def next(self, count: int) -> list[Ticket]:
        """Return the *count* tickets that are served next, if all of them get what they wait for."""
        found: list[Ticket] = []
        for callers in self._callers.values():
            depth = 0
            while len(found) < count:
                row = [tickets[depth] for tickets in callers.values() if len(tickets) > depth]
                if not row:
                    break
                found += row[: count - len(found)]
                depth += 1
        return found

    def remove(self, claimant: Claimant, ticket: Ticket, *, served: bool) -> None:
        """Take *ticket* out, if it is in; where it was *served* it is the other callers' turn."""
        callers = self._callers[claimant.priority]
        tickets = callers.get(claimant.caller, deque())
        if ticket not in tickets:
            return
        tickets.remove(ticket)
        self._count -= 1
        if not tickets:
            del callers[claimant.caller]
        elif served:
            callers.move_to_end(claimant.caller)

    def ahead(self, claimant: Claimant) -> int:
        """Return how many tickets are served before one that *claimant* would add now."""
        before = sum(self.count(each) for each in Priority if each < claimant.priority)
        callers = self._callers[claimant.priority]
        own = len(callers.get(claimant.caller, ()))
        return before + own + sum(min(len(each), own + 1) for who, each in callers.items() if who != claimant.caller)
