"""The queue before the upstream: who calls next, and when. One line for each budget.

Where nobody waits and a call and a permit are to be had at once, there is no ticket. Else one waits in its line until
the ledger grants a call and a permit is free. Its caller may go away at any moment:

1. The line grants a call to ticket A, whose caller was cancelled in the same turn of the loop.
2. A's `turn` finds the grant in its own hands as it unwinds, and hands it back: the call counts, the permit is free.
3. No ticket is ever served that is not in its line, and none leaves its line but by `turn`, so nothing leaks.

Who is next: the most urgent class first, and inside a class one call for each caller in turn.

Lines before the upstream: who waits in each, and what is known of the budget that it waits for.

How many calls are under way at once: as many as there are connections to the upstream.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, Generic, Protocol, TypeVar

from proxy.core.call_context import Claimant, Priority
from proxy.core.values import immutable
from proxy.errors import TooManyCallsError, UpstreamBusyError
from proxy.ratelimit.metrics import ShieldMetrics
from proxy.ratelimit.sliding_window import Allowance, Taken, Told, Wait

Item = TypeVar("Item")


class Waiting(Generic[Item]):
    """Tickets by class and caller. A caller with five hundred tickets is served as often as one with a single one."""

    def __init__(self) -> None:
        self._callers: dict[Priority, OrderedDict[str, deque[Item]]] = {each: OrderedDict() for each in Priority}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def count(self, priority: Priority) -> int:
        """Return how many of a class wait."""
        return sum(len(tickets) for tickets in self._callers[priority].values())

    def add(self, claimant: Claimant, ticket: Item) -> None:
        """Put *ticket* behind the others of its caller."""
        self._callers[claimant.priority].setdefault(claimant.caller, deque()).append(ticket)
        self._count += 1

    def first(self) -> Item | None:
        """Return who is next."""
        for callers in self._callers.values():
            for tickets in callers.values():
                return tickets[0]
        return None

    def next(self, count: int) -> list[Item]:
        """Return the *count* tickets that are served next, if all of them get what they wait for."""
        found: list[Item] = []
        for callers in self._callers.values():
            depth = 0
            while len(found) < count:
                row = [tickets[depth] for tickets in callers.values() if len(tickets) > depth]
                if not row:
                    break
                found += row[: count - len(found)]
                depth += 1
        return found

    def remove(self, claimant: Claimant, ticket: Item, *, served: bool) -> None:
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


_POLL_S: Final = 0.25  # another replica's call may have ended, or its probe opened the gate
_MOST_WAITING: Final = 10_000
_MOST_TOGETHER: Final = 16
_MOST_LOOKED_AT: Final = 64  # calls under way, when it is estimated how soon one of them ends
_WEIGHT: Final = 0.1  # of the latest call in the moving average of how long calls take
_LOW: Final = 0.25
_LOW_S: Final = 5.0
# While the budget's log is away nobody knows whether there is a call. Who waits is refused only once it is clear that
# the log doesn't come back at once, and is told to come again soon.
_UNCERTAIN_S: Final = 2.5
_UNCERTAIN_RETRY_S: Final = 5.0


class Books(Protocol):
    """What a queue needs of a ledger; see `proxy.ratelimit.memory_store`."""

    async def take(self, scope: str, priority: Priority) -> Taken | Wait: ...

    def take_at_once(self, scope: str, priority: Priority) -> Taken | Wait | None: ...

    def report(self, scope: str, lease: str, *, told: Sequence[Told] = (), closed_s: float | None = None) -> None: ...

    def allowances(self, scope: str) -> Sequence[Allowance]: ...


class Turns:
    """Gives turns. *clock* never steps back; *hold_s* is how long after a grant its call may still be sent."""

    def __init__(
        self, books: Books, *, most: int, hold_s: float, clock: Callable[[], float], metrics: ShieldMetrics
    ) -> None:
        self._books = books
        self._hold_s = hold_s
        self._clock = clock
        self.metrics = metrics
        self._lines = Lines()
        self._wanting: dict[str, Line] = {}  # those that lack a permit, the one that has lacked it longest first
        self._waiting_count = 0
        self._under_way: dict[Turn, None] = {}  # oldest first
        self._call_s = 0.0  # how long a call takes, a moving average
        self.permits = Permits(most, freed=self._freed)

    async def turn(self, scope: str, claimant: Claimant, *, deadline: float) -> Turn:
        """Return leave to make one call, once there is any.

        Raises `TooManyCallsError` as soon as it is clear that there will be none before *deadline*, by the clock;
        `UpstreamBusyError` where that is for lack of connections, not of budget.
        """
        began = self._clock()
        while True:
            turn = await self._waited(scope, claimant, deadline)
            if self._clock() - turn.given_at < self._hold_s / 2:
                self.metrics.waited(claimant.priority, self._clock() - began)
                self._under_way[turn] = None
                return turn
            self._unused(turn)  # this process stood still: the call might arrive when it no longer counts

    def over(self, turn: Turn, *, told: Sequence[Told] = (), closed_s: float | None = None) -> None:
        """The call was answered, or given up; see `Ledger.report`."""
        if turn in self._under_way:
            del self._under_way[turn]
            self._call_s += _WEIGHT * (self._clock() - turn.given_at - self._call_s)
        self._books.report(turn.scope, turn.lease, told=told, closed_s=closed_s)
        line = self._lines.known(turn.scope)
        if line is not None:
            if closed_s is not None:
                line.closed_until = line.not_before[Priority.WRITE] = self._clock() + closed_s
            line.changed.set()

    def low(self, scope: str) -> bool:
        """Whether the budget *scope* ran low a moment ago."""
        line = self._lines.known(scope)
        return line is not None and self._clock() < line.low_until

    def queues(self) -> Queues:
        """Return how long the lines before the upstream are, and how their budgets stand."""
        return self._lines.queues(waiting=self._waiting_count, now=self._clock())

    async def close(self) -> None:
        """Give no more turns, and wait until nobody waits for one."""
        servers = [line.server for line in self._lines if line.server is not None]
        for server in servers:
            server.cancel()
        await asyncio.gather(*servers, return_exceptions=True)
        for line in self._lines:
            for ticket in list(line.tickets):
                self._refuse(line, ticket, "stopping", 1.0)

    async def _waited(self, scope: str, claimant: Claimant, deadline: float) -> Turn:
        line = self._lines.line(scope, now=self._clock())
        self._admitted(scope, line, claimant, deadline)
        if turn := self._at_once(scope, line, claimant):
            return turn
        ticket = Ticket(claimant, self._clock(), deadline, asyncio.get_running_loop().create_future())
        line.waiting.add(claimant, ticket)
        line.tickets.add(ticket)
        line.changed.set()
        if line.server is None:
            line.server = asyncio.create_task(self._serve(scope, line))
        self._counted(claimant, 1)
        used = False
        try:
            async with asyncio.timeout(deadline - self._clock()):
                await asyncio.wait([ticket.turn])
            used = True
            return ticket.turn.result()
        except TimeoutError:
            wait_s = line.wait_s(claimant.priority, self._clock())
            if wait_s <= 0 and not self.permits.is_free:
                raise self._busy(claimant, self._busy_s()) from None
            raise self._refusal(claimant, "waited", wait_s) from None
        finally:
            self._counted(claimant, -1)
            line.leave(ticket, served=False)
            if not ticket.turn.done():
                ticket.turn.cancel()
            elif not used and ticket.turn.exception() is None:
                self._unused(ticket.turn.result())

    def _at_once(self, scope: str, line: Line, claimant: Claimant) -> Turn | None:
        """Return a turn where nobody waits, here or for a permit, and there is a call that need not be waited for."""
        if line.server is not None or self._wanting:
            return None
        permitted = claimant.priority is not Priority.WRITE
        if permitted and not self.permits.take():
            return None
        verdict = self._books.take_at_once(scope, claimant.priority)
        if isinstance(verdict, Taken):
            return self._taken(scope, line, verdict, claimant.priority, permitted=permitted)
        if permitted:
            self.permits.give_back()
        return None

    def _counted(self, claimant: Claimant, change: int) -> None:
        self._waiting_count += change
        self.metrics.waiting.labels(claimant.priority.label).inc(change)

    def _unused(self, turn: Turn) -> None:
        if turn.permitted:
            self.permits.give_back()
        self.over(turn)

    def _admitted(self, scope: str, line: Line, claimant: Claimant, deadline: float) -> None:
        """Let *claimant* wait in *line*; raises `TooManyCallsError` if it would wait in vain."""
        now = self._clock()
        wait_s = line.wait_s(claimant.priority, now)
        if not claimant.patient and wait_s > 0:
            raise self._refusal(claimant, "impatient", wait_s)
        if self._waiting_count >= _MOST_WAITING:
            raise self._busy(claimant, max(1.0, self._busy_s()))
        if claimant.priority is not Priority.WRITE and now + (busy_s := self._busy_s()) > deadline:
            raise self._busy(claimant, busy_s)
        if line.tickets:
            ahead = line.waiting.ahead(claimant)
            rounds_s = [ahead // max(1, each.calls) * each.counted_s for each in self._books.allowances(scope)]
            wait_s += max(rounds_s, default=0.0)
        if now + wait_s > deadline:
            raise self._refusal(claimant, "deadline", wait_s)

    async def _serve(self, scope: str, line: Line) -> None:
        """Serve *line* until nobody waits in it.

        As long as calls are granted ever more are asked for at once, for each may be a round trip away.
        """
        together = 1
        try:
            while tickets := line.waiting.next(together):
                line.changed.clear()
                permitted = self._permitted(tickets)
                if not permitted:
                    if tickets[0].claimant.patient:
                        self._wanting.setdefault(scope, line)
                        await line.changed.wait()
                    else:
                        self._refuse(line, tickets[0], "impatient", 0.0)
                    continue
                self._wanting.pop(scope, None)
                asking = (self._asked(scope, line, each, permitted=needed) for each, needed in permitted)
                pause_s = max(await asyncio.gather(*asking))
                together = 1 if pause_s > 0 else min(2 * together, _MOST_TOGETHER)
                if pause_s > 0:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(min(pause_s, _POLL_S)):
                            await line.changed.wait()
        finally:
            line.server = None
            self._wanting.pop(scope, None)

    def _permitted(self, tickets: Sequence[Ticket]) -> list[tuple[Ticket, bool]]:
        """Take permits for the first of *tickets*, and return them, each with whether a permit goes with it."""
        permitted: list[tuple[Ticket, bool]] = []
        for ticket in tickets:
            exempt = ticket.claimant.priority is Priority.WRITE  # never behind reads, here neither
            if not exempt and not self.permits.take():
                break
            permitted.append((ticket, not exempt))
        return permitted

    async def _asked(self, scope: str, line: Line, ticket: Ticket, *, permitted: bool) -> float:
        """Ask for a call for who is first in *line*, and return how long there is none."""
        verdict: Taken | Wait | None = None
        try:
            verdict = await self._books.take(scope, ticket.claimant.priority)
        finally:
            if not isinstance(verdict, Taken) and permitted:
                self.permits.give_back()
        if isinstance(verdict, Wait):
            self._wait(scope, line, verdict, ticket.claimant.priority)
            return verdict.wait_s
        turn = self._taken(scope, line, verdict, ticket.claimant.priority, permitted=permitted)
        heir = ticket if ticket in line.tickets else line.waiting.first()
        if heir is None:
            self._unused(turn)
        else:
            line.leave(heir, served=True)
            heir.turn.set_result(turn)
        return 0.0

    def _taken(self, scope: str, line: Line, verdict: Taken, priority: Priority, *, permitted: bool) -> Turn:
        """Return the turn for a call of class *priority* that was granted, and note what that says of *line*."""
        self.metrics.left.set(verdict.left)
        line.not_before = {each: until for each, until in line.not_before.items() if each > priority}
        if verdict.left < _LOW:
            self._lower(scope, line, _LOW_S)
        return Turn(scope, verdict.lease, self._clock(), permitted)

    def _wait(self, scope: str, line: Line, verdict: Wait, priority: Priority) -> None:
        """Note that *line* gets no call for a while, and refuse those in it who can't or won't wait for so long."""
        now = self._clock()
        longest_s = max((each.counted_s for each in self._books.allowances(scope)), default=verdict.wait_s)
        wait_s = verdict.wait_s if verdict.closed else min(verdict.wait_s, longest_s)
        if not verdict.uncertain:
            line.not_before[Priority.WRITE if verdict.closed else priority] = now + wait_s
        if verdict.closed:
            line.closed_until = now + wait_s
        self._lower(scope, line, wait_s)
        in_vain = [each for each in line.tickets if not each.claimant.patient or each.deadline < now + wait_s]
        if verdict.uncertain:
            in_vain = [each for each in in_vain if not each.claimant.patient or now - each.began >= _UNCERTAIN_S]
            wait_s = min(wait_s, _UNCERTAIN_RETRY_S)
        for ticket in in_vain:
            self._refuse(line, ticket, "deadline" if ticket.claimant.patient else "impatient", wait_s)

    def _lower(self, scope: str, line: Line, low_s: float) -> None:
        allowances = self._books.allowances(scope)
        line.low_until = self._clock() + min([low_s, *(each.counted_s for each in allowances)])

    def _refuse(self, line: Line, ticket: Ticket, reason: str, wait_s: float) -> None:
        line.leave(ticket, served=False)
        if not ticket.turn.done():
            ticket.turn.set_exception(self._refusal(ticket.claimant, reason, wait_s))

    def _busy_s(self) -> float:
        """Return how long a caller who comes now waits for a permit, as calls have lately gone; 0 while one is free."""
        if self.permits.is_free:
            return 0.0
        now, ending_per_s, looked_at_s = self._clock(), 0.0, 0.0
        calls = [turn for turn in islice(self._under_way, _MOST_LOOKED_AT) if turn.permitted]
        for turn in calls:  # one that hangs says nothing of the others
            looked_at_s = max(self._call_s, now - turn.given_at)
            if looked_at_s <= 0:
                return 0.0
            ending_per_s += 1 / looked_at_s
        if not calls:
            return 0.0
        ending_per_s += (self.permits.limit - len(calls)) / looked_at_s  # those are younger than the last of these
        return (self._waiting_count + 1) / ending_per_s

    def _busy(self, claimant: Claimant, wait_s: float) -> UpstreamBusyError:
        self.metrics.refused.labels(claimant.priority.label, "queue").inc()
        return UpstreamBusyError(
            f"upstream: {self.permits.under_way} calls under way and {self._waiting_count} waiting, "
            f"the next could begin in {wait_s:.0f}s",
            retry_after_s=max(1.0, wait_s),
        )

    def _refusal(self, claimant: Claimant, reason: str, wait_s: float) -> TooManyCallsError:
        self.metrics.refused.labels(claimant.priority.label, reason).inc()
        return TooManyCallsError(
            f"upstream: no call to be had in time, the next in {wait_s:.0f}s", retry_after_s=max(1.0, wait_s)
        )

    def _freed(self) -> None:
        for line in self._wanting.values():
            line.changed.set()
