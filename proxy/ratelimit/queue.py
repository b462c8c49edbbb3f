"""The queue before the upstream: who calls next, and when. There is one queue for each rate limit.

If nobody waits, and a call and a connection permit are available at once, a caller needs no ticket. Otherwise its
ticket waits until the rate-limit store grants a call and a permit is free. The most urgent class goes first; inside a
class each caller gets one call in turn. As many calls run at once as there are connections to the upstream.

A caller may go away at any moment:

1. Ticket A is granted a call in the same turn of the event loop in which its caller is cancelled.
2. `_wait_for_slot` finds the slot as it unwinds and hands it back: the call counts, the permit is free.
3. Only a queued ticket is ever granted a slot, and `_wait_for_slot` removes it either way, so nothing leaks.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, Generic, Protocol, TypeVar

from proxy.core.call_context import CallContext, Priority
from proxy.core.values import immutable
from proxy.errors import RateLimitedError, UpstreamQueueFullError
from proxy.ratelimit.metrics import RateLimitMetrics
from proxy.ratelimit.sliding_window import AdvertisedLimit, Granted, RateLimit, Wait

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """Tickets by class and caller. A caller with 500 tickets is served as often as one with a single ticket."""

    def __init__(self) -> None:
        self._tickets: dict[Priority, OrderedDict[str, deque[Item]]] = {each: OrderedDict() for each in Priority}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def count(self, priority: Priority) -> int:
        """Return how many tickets of a class wait."""
        return sum(len(tickets) for tickets in self._tickets[priority].values())

    def add(self, context: CallContext, ticket: Item) -> None:
        """Put *ticket* behind the others of its caller."""
        self._tickets[context.priority].setdefault(context.caller, deque()).append(ticket)
        self._count += 1

    def first(self) -> Item | None:
        """Return the ticket that is next."""
        for callers in self._tickets.values():
            for tickets in callers.values():
                return tickets[0]
        return None

    def next(self, count: int) -> list[Item]:
        """Return the *count* tickets that are served next, if all of them get what they wait for."""
        found: list[Item] = []
        for callers in self._tickets.values():
            depth = 0
            while len(found) < count:
                row = [tickets[depth] for tickets in callers.values() if len(tickets) > depth]
                if not row:
                    break
                found += row[: count - len(found)]
                depth += 1
        return found

    def remove(self, context: CallContext, ticket: Item, *, served: bool) -> None:
        """Remove *ticket* if it is queued; if it was *served*, the other callers are next."""
        callers = self._tickets[context.priority]
        tickets = callers.get(context.caller, deque())
        if ticket not in tickets:
            return
        tickets.remove(ticket)
        self._count -= 1
        if not tickets:
            del callers[context.caller]
        elif served:
            callers.move_to_end(context.caller)

    def count_ahead(self, context: CallContext) -> int:
        """Return how many tickets are served before one that *context* would add now."""
        before = sum(self.count(each) for each in Priority if each < context.priority)
        callers = self._tickets[context.priority]
        own = len(callers.get(context.caller, ()))
        return before + own + sum(min(len(each), own + 1) for who, each in callers.items() if who != context.caller)


_MAX_QUEUES: Final = 10_000


@immutable
class Slot:
    """Leave to make one call now under the rate limit of *scope*. With *has_permit* it holds a connection permit."""

    scope: str
    lease: str
    granted_at: float
    has_permit: bool


@immutable
class QueueState:
    """All queues: how many *budgets* there are, how many of them are *low*, and how many are *cooling_down*.

    The last cooldown ends in *cooldown_s* seconds, or sooner if a probe succeeds. *waiting* calls wait.
    """

    budgets: int
    low: int
    cooling_down: int
    cooldown_s: float
    waiting: int


@dataclass(eq=False, slots=True)
class Ticket:
    """A caller's place in a queue from *queued_at* until its *deadline*; *slot* is the result."""

    claimant: CallContext
    queued_at: float
    deadline: float
    slot: asyncio.Future[Slot]


@dataclass(slots=True)
class ScopeQueue:
    """The queue for one rate limit: its *tickets*, and what is known of the limit, as times by the clock.

    A class gets no call until its *not_before*. The budget counts as low until *low_until*, and a cooldown lasts until
    *cooldown_until*. *dispatcher* runs while somebody waits; *changed* wakes it.
    """

    waiting: FairQueue[Ticket] = field(default_factory=FairQueue)
    tickets: set[Ticket] = field(default_factory=set)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    dispatcher: asyncio.Task[None] | None = None
    not_before: dict[Priority, float] = field(default_factory=dict)
    low_until: float = 0.0
    cooldown_until: float = 0.0

    def wait_s(self, priority: Priority, now: float) -> float:
        """Return how long a class gets no call: at least as long as every more urgent class."""
        return max(0.0, *(until - now for each, until in self.not_before.items() if each <= priority), 0.0)

    def remove(self, ticket: Ticket, *, served: bool) -> None:
        """Remove *ticket* if it is queued; if it was *served*, the other callers are next."""
        self.waiting.remove(ticket.claimant, ticket, served=served)
        self.tickets.discard(ticket)


class ScopeQueues:
    """The queues by scope; empty ones are dropped when there are too many."""

    def __init__(self) -> None:
        self._queues: dict[str, ScopeQueue] = {}

    def __iter__(self) -> Iterator[ScopeQueue]:
        return iter(self._queues.values())

    def find(self, scope: str) -> ScopeQueue | None:
        """Return the queue of *scope*, None if nobody has waited in it lately."""
        return self._queues.get(scope)

    def get_or_create(self, scope: str, *, now: float) -> ScopeQueue:
        """Return the queue of *scope*, a new one if there is none."""
        line = self._queues.get(scope)
        if line is not None:
            return line
        if len(self._queues) >= _MAX_QUEUES:
            kept = {
                at: each for at, each in self._queues.items() if each.tickets or each.dispatcher or each.low_until > now
            }
            self._queues = kept
        line = self._queues[scope] = ScopeQueue()
        return line

    def state(self, *, waiting: int, now: float) -> QueueState:
        """Return the state of all queues, in which *waiting* calls wait."""
        closed = [line.cooldown_until - now for line in self if line.cooldown_until > now]
        low = sum(line.low_until > now for line in self)
        return QueueState(len(self._queues), low, len(closed), max(closed, default=0.0), waiting)


class ConcurrencyLimit:
    """Counts calls in progress up to *limit*. *on_released* is called when a permit may be free again."""

    def __init__(self, limit: int, *, on_released: Callable[[], None]) -> None:
        self.limit = limit
        self.in_flight = 0
        self._on_released = on_released

    @property
    def is_free(self) -> bool:
        """Whether a permit is free."""
        return self.in_flight < self.limit

    def try_acquire(self) -> bool:
        """Take a permit, if there is one."""
        if self.in_flight >= self.limit:
            return False
        self.in_flight += 1
        return True

    def release(self) -> None:
        """Return a permit."""
        self.in_flight -= 1
        self._on_released()


_POLL_S: Final = 0.25  # another replica's call may have ended, or its probe opened the gate
_MAX_WAITING: Final = 10_000
_MAX_BATCH: Final = 16
_MAX_CHECKED: Final = 64  # calls under way, when it is estimated how soon one of them ends
_WEIGHT: Final = 0.1  # of the latest call in the moving average of how long calls take
_LOW_SHARE: Final = 0.25
_LOW_S: Final = 5.0
# While the budget's log is away nobody knows whether there is a call. Who waits is refused only once it is clear that
# the log doesn't come back at once, and is told to come again soon.
_UNCERTAIN_S: Final = 2.5
_UNCERTAIN_RETRY_S: Final = 5.0


class SlotSource(Protocol):
    """What a queue needs of a rate-limit store; see `proxy.ratelimit.memory_store`."""

    async def take(self, scope: str, priority: Priority) -> Granted | Wait: ...

    def try_take(self, scope: str, priority: Priority) -> Granted | Wait | None: ...

    def report(
        self, scope: str, lease: str, *, advertised: Sequence[AdvertisedLimit] = (), cooldown_s: float | None = None
    ) -> None: ...

    def limits(self, scope: str) -> Sequence[RateLimit]: ...


class CallQueue:
    """Grants slots. *clock* is monotonic; *hold_s* is how long after a grant its call may still be sent."""

    def __init__(
        self,
        store: SlotSource,
        *,
        max_concurrent: int,
        hold_s: float,
        clock: Callable[[], float],
        metrics: RateLimitMetrics,
    ) -> None:
        self._store = store
        self._hold_s = hold_s
        self._clock = clock
        self.metrics = metrics
        self._queues = ScopeQueues()
        self._without_permit: dict[
            str, ScopeQueue
        ] = {}  # those that lack a permit, the one that has lacked it longest first
        self._waiting_count = 0
        self._in_flight: dict[Slot, None] = {}  # oldest first
        self._call_s = 0.0  # how long a call takes, a moving average
        self.permits = ConcurrencyLimit(max_concurrent, on_released=self._wake_waiting)

    async def acquire(self, scope: str, context: CallContext, *, deadline: float) -> Slot:
        """Wait for a slot and return it.

        Raises `RateLimitedError` as soon as it is clear that there will be none before *deadline* (by the clock), and
        `UpstreamQueueFullError` if connections are the reason, not the rate limit.
        """
        began = self._clock()
        while True:
            slot = await self._wait_for_slot(scope, context, deadline)
            if self._clock() - slot.granted_at < self._hold_s / 2:
                self.metrics.record_wait(context.priority, self._clock() - began)
                self._in_flight[slot] = None
                return slot
            self._return_unused(slot)  # this process stood still: the call might arrive when it no longer counts

    def release(
        self, slot: Slot, *, advertised: Sequence[AdvertisedLimit] = (), cooldown_s: float | None = None
    ) -> None:
        """Release *slot* after its call was answered or given up; see `RateLimitStore.report`."""
        if slot in self._in_flight:
            del self._in_flight[slot]
            self._call_s += _WEIGHT * (self._clock() - slot.granted_at - self._call_s)
        self._store.report(slot.scope, slot.lease, advertised=advertised, cooldown_s=cooldown_s)
        line = self._queues.find(slot.scope)
        if line is not None:
            if cooldown_s is not None:
                line.cooldown_until = line.not_before[Priority.WRITE] = self._clock() + cooldown_s
            line.changed.set()

    def is_low(self, scope: str) -> bool:
        """Whether the budget of *scope* was low a moment ago."""
        line = self._queues.find(scope)
        return line is not None and self._clock() < line.low_until

    def state(self) -> QueueState:
        """Return the state of all queues and their budgets."""
        return self._queues.state(waiting=self._waiting_count, now=self._clock())

    async def close(self) -> None:
        """Grant no more slots, and return once nobody waits for one."""
        servers = [line.dispatcher for line in self._queues if line.dispatcher is not None]
        for server in servers:
            server.cancel()
        await asyncio.gather(*servers, return_exceptions=True)
        for line in self._queues:
            for ticket in list(line.tickets):
                self._refuse(line, ticket, "shutting_down", 1.0)

    async def _wait_for_slot(self, scope: str, context: CallContext, deadline: float) -> Slot:
        line = self._queues.get_or_create(scope, now=self._clock())
        self._check_admission(scope, line, context, deadline)
        if slot := self._try_acquire(scope, line, context):
            return slot
        ticket = Ticket(context, self._clock(), deadline, asyncio.get_running_loop().create_future())
        line.waiting.add(context, ticket)
        line.tickets.add(ticket)
        line.changed.set()
        if line.dispatcher is None:
            line.dispatcher = asyncio.create_task(self._dispatch(scope, line))
        self._count_waiting(context, 1)
        used = False
        try:
            async with asyncio.timeout(deadline - self._clock()):
                await asyncio.wait([ticket.slot])
            used = True
            return ticket.slot.result()
        except TimeoutError:
            wait_s = line.wait_s(context.priority, self._clock())
            if wait_s <= 0 and not self.permits.is_free:
                raise self._queue_full_error(context, self._permit_wait_s()) from None
            raise self._rate_limited_error(context, "wait_timeout", wait_s) from None
        finally:
            self._count_waiting(context, -1)
            line.remove(ticket, served=False)
            if not ticket.slot.done():
                ticket.slot.cancel()
            elif not used and ticket.slot.exception() is None:
                self._return_unused(ticket.slot.result())

    def _try_acquire(self, scope: str, queue: ScopeQueue, context: CallContext) -> Slot | None:
        """Return a slot if nobody waits, here or for a permit, and a call is available at once."""
        if queue.dispatcher is not None or self._without_permit:
            return None
        permitted = context.priority is not Priority.WRITE
        if permitted and not self.permits.try_acquire():
            return None
        verdict = self._store.try_take(scope, context.priority)
        if isinstance(verdict, Granted):
            return self._grant(scope, queue, verdict, context.priority, permitted=permitted)
        if permitted:
            self.permits.release()
        return None

    def _count_waiting(self, context: CallContext, change: int) -> None:
        self._waiting_count += change
        self.metrics.waiting.labels(context.priority.label).inc(change)

    def _return_unused(self, slot: Slot) -> None:
        if slot.has_permit:
            self.permits.release()
        self.release(slot)

    def _check_admission(self, scope: str, queue: ScopeQueue, context: CallContext, deadline: float) -> None:
        """Queue a ticket for *context*; raises `RateLimitedError` if it would wait in vain."""
        now = self._clock()
        wait_s = queue.wait_s(context.priority, now)
        if not context.may_wait and wait_s > 0:
            raise self._rate_limited_error(context, "no_wait", wait_s)
        if self._waiting_count >= _MAX_WAITING:
            raise self._queue_full_error(context, max(1.0, self._permit_wait_s()))
        if context.priority is not Priority.WRITE and now + (busy_s := self._permit_wait_s()) > deadline:
            raise self._queue_full_error(context, busy_s)
        if queue.tickets:
            ahead = queue.waiting.count_ahead(context)
            rounds_s = [ahead // max(1, each.calls) * each.counted_s for each in self._store.limits(scope)]
            wait_s += max(rounds_s, default=0.0)
        if now + wait_s > deadline:
            raise self._rate_limited_error(context, "wait_too_long", wait_s)

    async def _dispatch(self, scope: str, queue: ScopeQueue) -> None:
        """Serve *queue* until it is empty.

        While calls are granted, more and more are requested at once, because each request may be a round trip.
        """
        together = 1
        try:
            while tickets := queue.waiting.next(together):
                queue.changed.clear()
                permitted = self._take_permits(tickets)
                if not permitted:
                    if tickets[0].claimant.may_wait:
                        self._without_permit.setdefault(scope, queue)
                        await queue.changed.wait()
                    else:
                        self._refuse(queue, tickets[0], "no_wait", 0.0)
                    continue
                self._without_permit.pop(scope, None)
                asking = (self._request_slot(scope, queue, each, permitted=needed) for each, needed in permitted)
                pause_s = max(await asyncio.gather(*asking))
                together = 1 if pause_s > 0 else min(2 * together, _MAX_BATCH)
                if pause_s > 0:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(min(pause_s, _POLL_S)):
                            await queue.changed.wait()
        finally:
            queue.dispatcher = None
            self._without_permit.pop(scope, None)

    def _take_permits(self, tickets: Sequence[Ticket]) -> list[tuple[Ticket, bool]]:
        """Take permits for the first *tickets*, and return them, each with whether it got a permit."""
        permitted: list[tuple[Ticket, bool]] = []
        for ticket in tickets:
            exempt = ticket.claimant.priority is Priority.WRITE  # never behind reads, here neither
            if not exempt and not self.permits.try_acquire():
                break
            permitted.append((ticket, not exempt))
        return permitted

    async def _request_slot(self, scope: str, queue: ScopeQueue, ticket: Ticket, *, permitted: bool) -> float:
        """Request a call for the first ticket in *queue*, and return how long none is available."""
        verdict: Granted | Wait | None = None
        try:
            verdict = await self._store.take(scope, ticket.claimant.priority)
        finally:
            if not isinstance(verdict, Granted) and permitted:
                self.permits.release()
        if isinstance(verdict, Wait):
            self._record_wait(scope, queue, verdict, ticket.claimant.priority)
            return verdict.wait_s
        slot = self._grant(scope, queue, verdict, ticket.claimant.priority, permitted=permitted)
        heir = ticket if ticket in queue.tickets else queue.waiting.first()
        if heir is None:
            self._return_unused(slot)
        else:
            queue.remove(heir, served=True)
            heir.slot.set_result(slot)
        return 0.0

    def _grant(self, scope: str, queue: ScopeQueue, verdict: Granted, priority: Priority, *, permitted: bool) -> Slot:
        """Return the slot of a granted call of class *priority*, and note what the grant says of *queue*."""
        self.metrics.left.set(verdict.left_share)
        queue.not_before = {each: until for each, until in queue.not_before.items() if each > priority}
        if verdict.left_share < _LOW_SHARE:
            self._mark_low(scope, queue, _LOW_S)
        return Slot(scope, verdict.lease, self._clock(), permitted)

    def _record_wait(self, scope: str, queue: ScopeQueue, verdict: Wait, priority: Priority) -> None:
        """Note that *queue* gets no call for a while, and refuse the tickets that can't or won't wait that long."""
        now = self._clock()
        longest_s = max((each.counted_s for each in self._store.limits(scope)), default=verdict.wait_s)
        wait_s = verdict.wait_s if verdict.is_cooldown else min(verdict.wait_s, longest_s)
        if not verdict.is_uncertain:
            queue.not_before[Priority.WRITE if verdict.is_cooldown else priority] = now + wait_s
        if verdict.is_cooldown:
            queue.cooldown_until = now + wait_s
        self._mark_low(scope, queue, wait_s)
        in_vain = [each for each in queue.tickets if not each.claimant.may_wait or each.deadline < now + wait_s]
        if verdict.is_uncertain:
            in_vain = [each for each in in_vain if not each.claimant.may_wait or now - each.queued_at >= _UNCERTAIN_S]
            wait_s = min(wait_s, _UNCERTAIN_RETRY_S)
        for ticket in in_vain:
            self._refuse(queue, ticket, "wait_too_long" if ticket.claimant.may_wait else "no_wait", wait_s)

    def _mark_low(self, scope: str, queue: ScopeQueue, low_s: float) -> None:
        limits = self._store.limits(scope)
        queue.low_until = self._clock() + min([low_s, *(each.counted_s for each in limits)])

    def _refuse(self, queue: ScopeQueue, ticket: Ticket, reason: str, wait_s: float) -> None:
        queue.remove(ticket, served=False)
        if not ticket.slot.done():
            ticket.slot.set_exception(self._rate_limited_error(ticket.claimant, reason, wait_s))

    def _permit_wait_s(self) -> float:
        """Return how long a new caller would wait for a permit, estimated from recent calls; 0 while one is free."""
        if self.permits.is_free:
            return 0.0
        now, ending_per_s, looked_at_s = self._clock(), 0.0, 0.0
        calls = [turn for turn in islice(self._in_flight, _MAX_CHECKED) if turn.has_permit]
        for slot in calls:  # one that hangs says nothing of the others
            looked_at_s = max(self._call_s, now - slot.granted_at)
            if looked_at_s <= 0:
                return 0.0
            ending_per_s += 1 / looked_at_s
        if not calls:
            return 0.0
        ending_per_s += (self.permits.limit - len(calls)) / looked_at_s  # those are younger than the last of these
        return (self._waiting_count + 1) / ending_per_s

    def _queue_full_error(self, context: CallContext, wait_s: float) -> UpstreamQueueFullError:
        self.metrics.refused.labels(context.priority.label, "queue_full").inc()
        return UpstreamQueueFullError(
            f"upstream: {self.permits.in_flight} calls under way and {self._waiting_count} waiting, "
            f"the next could begin in {wait_s:.0f}s",
            retry_after_s=max(1.0, wait_s),
        )

    def _rate_limited_error(self, context: CallContext, reason: str, wait_s: float) -> RateLimitedError:
        self.metrics.refused.labels(context.priority.label, reason).inc()
        return RateLimitedError(
            f"upstream: no call to be had in time, the next in {wait_s:.0f}s", retry_after_s=max(1.0, wait_s)
        )

    def _wake_waiting(self) -> None:
        for line in self._without_permit.values():
            line.changed.set()
