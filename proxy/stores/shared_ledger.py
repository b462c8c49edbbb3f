"""One budget for all replicas, in Redis; without Redis each replica has its part.

What keeps the law when Redis goes away, of which no replica knows what the others did last:

1. Redis grants to A, and dies. B notices when its next take fails.
2. What A was granted may arrive for *hold_s*, and counts for a window more. Until then B makes no call.
3. From then on each replica has its part of the budget, by the replicas last seen. The parts add up to the whole.
4. Redis comes back, perhaps empty. B asks it again, and reports there, but stays within its part for as long as
   another replica may still be in step 3 (its guard's longest pause) and what that one did counts.

A replica that asked nothing while Redis was away would not know of step 4, and take what others have called meanwhile
for free. So whoever was out of touch with the others, by the channel that all of them listen to, is in step 4 as well;
and step 3 does not begin before everyone must have noticed that.

A replica that has long been alone knows all that was called, and goes on without a break. One that alone loses Redis
while the others keep it can't be told from this: then its part comes on top. So it does for one that starts in step 4.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count as counted
from math import inf
from typing import Any, Final

import orjson

from proxy.core.budget import LEAVES, Allowance, Taken, Told, Usage, Wait
from proxy.core.claimant import Priority
from proxy.errors import StoreUnavailableError
from proxy.stores.circuit_breaker import CircuitBreaker
from proxy.stores.ledger import MemoryLedger
from proxy.stores.redis import RedisStore

_US: Final = 1_000_000
_NOTICED_S: Final = 2.0  # another replica notices that Redis is back within this
_LEAST_TIMEOUT_S: Final = 0.25  # a call that waits for its turn can wait for Redis too


@dataclass(slots=True)
class _Unsent:
    """What Redis has not been told yet of a scope."""

    ended: list[str] = field(default_factory=list)
    told: dict[str, Told] = field(default_factory=dict)
    closed_s: float | None = None


class SharedLedger:
    """A `Ledger` in the Redis of *store*; *near* logs what this replica does.

    *name* is this replica's among its *peers*, those that were last seen to listen, itself included. *in_touch* says
    whether it hears the others now; when it doesn't, everyone has noticed within *notice_s*.
    """

    def __init__(
        self,
        store: RedisStore,
        near: MemoryLedger,
        configured: Allowance | None,
        *,
        name: str,
        peers: Callable[[], frozenset[str]],
        in_touch: Callable[[], bool],
        notice_s: float,
        hold_s: float,
        timeout_s: float,
        breaker: CircuitBreaker,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._near = near
        self._configured = configured
        self._name = name
        self._peers = peers
        self._in_touch = in_touch
        self._notice_s = notice_s
        self._hold_s = hold_s
        self._clock = clock
        self._breaker = breaker
        self._timeout_s = max(timeout_s, _LEAST_TIMEOUT_S)
        self._leases = counted(1)
        self._unsent: dict[str, _Unsent] = {}
        self._reporting: asyncio.Task[None] | None = None
        self._life: bytes | None = None
        self._away_since: float | None = None
        self._back_at = -inf
        self._blind_at = -inf  # what others did until then may be logged nowhere
        self._accompanied_at = clock()
        self._listens = False

    async def start(self) -> None:
        """See `Ledger.start`: learn which life of the budgets Redis keeps, to know it from a later one."""
        with suppress(StoreUnavailableError):
            await self._asked("", [])

    def listening(self) -> None:
        """This replica begins to hear the others; if that is not the first time, it has missed something."""
        if self._listens:
            self._back_at = self._clock()
        self._listens = True

    def take_at_once(self, scope: str, priority: Priority) -> Taken | Wait | None:  # noqa: ARG002 - whatever it is
        """See `Ledger.take_at_once`: Redis is asked."""
        return None

    async def take(self, scope: str, priority: Priority) -> Taken | Wait:
        """See `Ledger.take`."""
        part = self._part_taken(scope, priority) if self._settling(scope) else None
        if isinstance(part, Wait):
            return part
        lease = part.lease if part else f"{self._name}-{next(self._leases)}"
        try:
            verdict = await self._asked(scope, [lease, _us(self._hold_s), LEAVES[priority]])
        except StoreUnavailableError:
            if part is not None:
                self._near.forget(scope, lease)
            return self._part_taken(scope, priority)  # which may have to be waited for, now that Redis is away
        if part is None and isinstance(verdict, Taken):
            self._near.note(scope, lease)
        elif part is not None and isinstance(verdict, Wait):
            self._near.forget(scope, lease)
        return verdict

    def report(self, scope: str, lease: str, *, told: Sequence[Told] = (), closed_s: float | None = None) -> None:
        """See `Ledger.report`. Redis is told soon, in the background."""
        self._near.report(scope, lease, told=told, closed_s=closed_s)
        unsent = self._unsent.setdefault(scope, _Unsent())
        unsent.ended.append(lease)
        unsent.told |= {each.name: each for each in told}
        if closed_s is not None:
            unsent.closed_s = max(closed_s, unsent.closed_s or 0.0)
        if self._reporting is None or self._reporting.done():
            self._reporting = asyncio.create_task(self._reported())

    def limits(self, scope: str) -> Mapping[str, Allowance]:
        """See `Ledger.limits`."""
        return self._near.limits(scope)

    def allowances(self, scope: str) -> Sequence[Allowance]:
        """See `Ledger.allowances`."""
        return self._near.allowances(scope)

    def usage(self) -> Usage | None:
        """See `Ledger.usage`."""
        return self._near.usage()

    async def close(self) -> None:
        """See `Ledger.close`: Redis is told first what it does not know yet, if it answers."""
        if self._reporting is not None:
            await self._reporting

    async def _reported(self) -> None:
        while self._unsent:
            try:
                await self._asked(next(iter(self._unsent)), [])
            except StoreUnavailableError:
                self._unsent.clear()  # what is not reported counts for as long as it may: no call too many

    async def _asked(self, scope: str, taking: list[object]) -> Taken | Wait:
        """Tell Redis what it does not know of *scope*, and return whether a call may be made, where one is wanted."""
        order = self._order(self._unsent.pop(scope, _Unsent()), taking)
        try:
            life, said = await self._breaker.call(
                "budget",
                lambda: self._store.budgeted(scope, order, life=secrets.token_bytes(8)),
                timeout_s=self._timeout_s,
            )
        except StoreUnavailableError:
            self._away_since = self._clock() if self._away_since is None else self._away_since
            raise
        self._found(life)
        return self._read(scope, str(taking[0]) if taking else "", said)

    def _found(self, life: bytes) -> None:
        """Redis answered; raise `StoreUnavailableError` where it is not the one that logged what was called before."""
        now, known = self._clock(), self._life
        away_since, self._away_since, self._life = self._away_since, None, life
        if away_since is not None:
            self._back_at = now
        if known not in (None, life):
            self._back_at, self._blind_at = now, now if away_since is None else away_since
            raise StoreUnavailableError("redis: another life, what was called before is not logged there")

    def _read(self, scope: str, lease: str, said: list[Any]) -> Taken | Wait:
        granted, wait_us, closed, left, _, *limits = said
        told = zip(limits[::3], limits[1::3], limits[2::3], strict=True)
        self._near.learn(scope, {name.decode(): Allowance.counting(most, us / _US) for name, most, us in told})
        if len(self._peers()) > 1:
            self._accompanied_at = self._clock()
        return Taken(lease, left / _US) if granted else Wait(wait_us / _US, closed=bool(closed))

    def _order(self, unsent: _Unsent, taking: list[object]) -> bytes:
        told = [
            [each.name, each.allowance.calls, _us(each.allowance.counted_s), -1 if each.remain is None else each.remain]
            for each in unsent.told.values()
        ]
        configured = [self._configured.calls, _us(self._configured.counted_s)] if self._configured else []
        close = -1 if unsent.closed_s is None else _us(unsent.closed_s)
        return orjson.dumps(
            {"ended": unsent.ended, "told": told, "close": close, "configured": configured, "take": taking}
        )

    def _settling(self, scope: str) -> bool:
        """Whether another replica may not know yet that Redis is back, or what it did meanwhile still counts."""
        if self._listens and not self._in_touch():
            return True
        return self._clock() < self._back_at + _NOTICED_S + self._hold_s + self._near.counted_s(scope)

    def _part_taken(self, scope: str, priority: Priority) -> Taken | Wait:
        """Take a call of this replica's own part."""
        now, counted_s = self._clock(), self._near.counted_s(scope)
        peers = sorted(self._peers() | {self._name})
        if len(peers) > 1:
            self._accompanied_at = max(self._accompanied_at, self._away_since or self._blind_at)
        alone = now >= self._accompanied_at + self._hold_s + counted_s
        unknown_since = self._blind_at if self._away_since is None else self._away_since
        wait_s = unknown_since + max(self._hold_s + counted_s, self._notice_s) - now
        if counted_s and not alone and wait_s > 0:
            return Wait(wait_s)
        return self._near.take_now(scope, priority, rank=peers.index(self._name), among=len(peers))


def _us(seconds: float) -> int:
    return round(seconds * _US)
