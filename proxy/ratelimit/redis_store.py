"""One budget for all replicas, in Redis; without Redis each replica has a part of it.

While Redis answers it grants every call, and tells with each answer how the budget stands. A replica whose call to
Redis fails makes do without, by `budget.without_store`:

`share`: it goes on at once, with its part of what was left when Redis last answered (`ratelimit/budget_share.py`).

1. Redis grants to A, and dies. B, that was told the state of the budget before that, notices when it asks next.
2. A and B each use their part, and what becomes free of it. They keep a log of their own calls.
3. Redis comes back, perhaps empty. A writes its own calls of the last period into the log there, under their own names,
   so that it makes no difference which of them are there already. So does B, at most `OUTAGE_NOTICED_S` later.
4. A asks Redis for calls again, but stays within its part too until B must have done the same.

The bound. Let n replicas share *calls*. In any period there are at most *calls*, and for each replica the n-th part,
rounded up, of what others were granted after it was last told the state. In use or watched, a scope is asked about
every second, so that is what was granted in the second before Redis went; and at the worst all of it for all but one:
never more than calls + (n - 1) * ceil(calls / n). A replica that is cut off alone, while the others keep Redis, is
within the same. Beyond it is what nobody knows of: the calls of a replica that ended together with the log in Redis,
and those of one that starts without Redis and has never heard of others.

`hold`: never more than *calls*.

1. Redis grants to A, and dies. B notices when its next take fails.
2. What A was granted may arrive for *hold_s*, and counts for a window more. Until then B makes no call.
3. From then on each replica has its part of the budget, by the replicas last seen. The parts add up to the whole.
4. Redis comes back, perhaps empty. B asks it again, and reports there, but stays within its part for as long as
   another replica may still be in step 3 (`OUTAGE_NOTICED_S`) and what that one did counts.

A replica that asked nothing while Redis was away would not know of step 4, and take what others have called meanwhile
for free. So whoever was out of touch with the others, by the channel that all of them listen to, is in step 4 as well;
and step 3 does not begin before everyone must have noticed that. A replica that has long been alone knows all that was
called, and goes on without a break. One that alone loses Redis while the others keep it can't be told from this: then
its part comes on top. So it does for one that starts in step 4.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count as counted
from math import inf
from typing import Any, Final, Literal, Protocol, TypeVar

import orjson

from proxy.core.call_context import Priority
from proxy.errors import StoreUnavailableError
from proxy.observability.event_loop import cancel_and_wait
from proxy.observability.logging import log_event
from proxy.ratelimit.memory_store import MemoryRateLimitStore, StoreOutage
from proxy.ratelimit.sliding_window import (
    CONFIGURED,
    RESERVED_SHARES,
    AdvertisedLimit,
    Granted,
    LimitUsage,
    LogSnapshot,
    RateLimit,
    ReplicaShare,
    Wait,
    limits_by_name,
)
from proxy.storage.redis import RedisStore

Result = TypeVar("Result")

OUTAGE_NOTICED_S: Final = 2.0  # by then every replica has noticed that Redis is back, and has told what it called
REFRESH_S: Final = 1.0
_RETRY_S: Final = 0.25
_REPLICA_SEEN_S: Final = 30.0
_US_PER_S: Final = 1_000_000
_MAX_SCOPES: Final = 10_000
_MAX_REFRESHED: Final = 50
_MAX_SENT: Final = 500  # calls in one command: Redis serves nobody else meanwhile
_MAX_DROPPED: Final = 1_000


class CommandRunner(Protocol):
    """Sends commands to the store, see `CircuitBreaker`: with a time limit, and none while the store is away."""

    async def call(
        self, operation: str, command: Callable[[], Coroutine[Any, Any, Result]], *, timeout_s: float | None = None
    ) -> Result:
        """Return what *command* returns. Raises `StoreUnavailableError`."""
        ...


@dataclass(slots=True)
class _UnsentReport:
    """What Redis has not been told yet of a scope."""

    ended: list[str] = field(default_factory=list)
    advertised: dict[str, AdvertisedLimit] = field(default_factory=dict)
    cooldown_s: float | None = None
    calls: list[tuple[str, int]] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)


class RedisRateLimitStore:
    """A `RateLimitStore` in the Redis of *store*; *near* logs what this replica does.

    *name* is this replica's among its *peers*, those that were last seen to listen, itself included. *in_touch* says
    whether it hears the others now; when it doesn't, everyone has noticed within *notice_s*. *breaker* sends the
    commands, each of which is waited for *timeout_s*.
    The scopes *on_outage* are asked about from the start, others from when they are used. With *in_background* false
    nothing runs in the background, and the owner calls `maintain`.
    """

    def __init__(
        self,
        store: RedisStore,
        near: MemoryRateLimitStore,
        configured: RateLimit | None,
        *,
        name: str,
        peers: Callable[[], frozenset[str]],
        in_touch: Callable[[], bool],
        notice_s: float,
        hold_s: float,
        breaker: CommandRunner,
        timeout_s: float,
        without_store: Literal["share", "hold"] = "share",
        on_outage: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
        in_background: bool = True,
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
        self._timeout_s = timeout_s
        self._mode = without_store
        self._on_outage = on_outage
        self._in_background = in_background
        self._numbers = counted(1)
        self._latest_number = 0  # of the last lease
        self._snapshots: OrderedDict[str, LogSnapshot] = OrderedDict()
        self._unsent: dict[str, _UnsentReport] = {}
        self._dropped: list[tuple[str, str]] = []  # scope and lease that Redis may have granted, and nobody used
        self._reporting: asyncio.Task[None] | None = None
        self._maintaining: asyncio.Task[None] | None = None
        self._is_lost = asyncio.Event()
        self._is_announced = False
        self._store_run: bytes | None = None
        self._replicas_seen: dict[str, float] = {}
        self._away_since: float | None = None
        self._restored: set[str] = set()
        self._back_at = -inf
        self._blind_at = -inf  # what others did until then may be logged nowhere
        self._accompanied_at = clock()
        self._listens = False

    async def start(self) -> None:
        """Learn which life of the budgets Redis keeps, and how the watched ones stand."""
        with suppress(StoreUnavailableError):
            for scope in self._on_outage or ("",):
                await self._ask(scope, [])
        self._maintain_in_background()

    def note_connected(self) -> None:
        """This replica begins to hear the others; if that is not the first time, it has missed something."""
        if self._listens:
            self._back_at = self._clock()
        self._listens = True

    def try_take(self, scope: str, priority: Priority) -> Granted | Wait | None:  # noqa: ARG002 - whatever it is
        """Redis is asked."""
        return None

    async def take(self, scope: str, priority: Priority) -> Granted | Wait:
        lease = self._next_lease()
        if self._away_since is not None and scope not in self._restored:
            return self._take_own_share(scope, priority, lease)
        part = self._take_own_share(scope, priority, lease) if self._is_settling(scope) else None
        if isinstance(part, Wait):
            return part
        try:
            verdict = await self._ask(scope, [lease, _us(self._hold_s), RESERVED_SHARES[priority]])
        except StoreUnavailableError:
            self._drop(scope, lease)
            if part is not None:
                self._near.remove_call(scope, lease)
            return self._take_own_share(scope, priority, self._next_lease())
        if part is None and isinstance(verdict, Granted):
            self._near.add_call(scope, lease)
        elif part is not None and isinstance(verdict, Wait):
            self._near.remove_call(scope, lease)
        return verdict

    def report(
        self, scope: str, lease: str, *, advertised: Sequence[AdvertisedLimit] = (), cooldown_s: float | None = None
    ) -> None:
        """Redis is told soon, in the background."""
        self._near.report(scope, lease, advertised=advertised, cooldown_s=cooldown_s)
        unsent = self._unsent.setdefault(scope, _UnsentReport())
        unsent.ended.append(lease)
        unsent.advertised |= {each.name: each for each in advertised}
        if cooldown_s is not None:
            unsent.cooldown_s = max(cooldown_s, unsent.cooldown_s or 0.0)
        if self._away_since is None:
            self._report_in_background()

    def advertised_limits(self, scope: str) -> Mapping[str, RateLimit]:
        return self._near.advertised_limits(scope)

    def limits(self, scope: str) -> Sequence[RateLimit]:
        return self._near.limits(scope)

    def usage(self) -> LimitUsage | None:
        return self._near.usage()

    def store_outage(self) -> StoreOutage | None:
        """None where there is no limit either."""
        if self._away_since is None or self._near.usage() is None:
            return None
        longest_s = max(self._near.counted_s(each) for each in ("", *self._near.scopes()[:_MAX_REFRESHED]))
        hold = self._mode == "hold" and not self._is_alone(longest_s)
        unknown_until = self._unknown_since() + max(self._hold_s + longest_s, self._notice_s)
        no_calls_for_s = max(0.0, unknown_until - self._clock()) if hold else 0.0
        return StoreOutage(self._mode, len(self._replicas()), no_calls_for_s)

    async def maintain(self) -> None:
        """Write what was called back into a Redis that is back; while it is there, learn how the budgets stand."""
        if self._away_since is None:
            await self._refresh()
        if self._away_since is None:
            return
        if await self._restore():
            if self._is_announced:
                log_event("budget_store_restored", replicas=len(self._replicas()))
            self._is_announced = False
        elif not self._is_announced and self._is_away_for(_RETRY_S) and (without := self.store_outage()):
            self._is_announced = True
            wait = f", no calls for {without.no_calls_for_s:.0f} s" if without.no_calls_for_s else ""
            log_event(
                "budget_without_store",
                level=logging.WARNING,
                mode=without.mode,
                share=without.share,
                until=f"the store answers{wait}",
            )

    async def close(self) -> None:
        """Redis is told first what it does not know yet, if it answers."""
        if self._maintaining is not None:
            await cancel_and_wait([self._maintaining])
            self._maintaining = None
        if self._reporting is not None:
            await self._reporting

    def _maintain_in_background(self) -> None:
        if self._in_background and (self._maintaining is None or self._maintaining.done()):
            self._maintaining = asyncio.create_task(self._keep_maintaining())

    async def _keep_maintaining(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(REFRESH_S if self._away_since is None else _RETRY_S):
                    await self._is_lost.wait()
            self._is_lost.clear()
            await self.maintain()

    def _report_in_background(self) -> None:
        if self._unsent and (self._reporting is None or self._reporting.done()):
            self._reporting = asyncio.create_task(self._send_reports())

    async def _send_reports(self) -> None:
        while self._unsent and self._away_since is None:
            with suppress(StoreUnavailableError):
                await self._ask(next(iter(self._unsent)), [])

    async def _refresh(self) -> None:
        """Learn how budgets stand that others may have used since this replica last asked."""
        if self._near.usage() is None or self._mode == "hold":
            return
        now, asked = self._clock(), 0
        with suppress(StoreUnavailableError):
            for scope in self._on_outage or ("",):
                await self._ask(scope, [])
            for scope in self._near.scopes():
                if scope not in self._on_outage and self._is_used(scope, now):
                    await self._ask(scope, [])
                    asked += 1
                    if asked >= _MAX_REFRESHED:
                        return

    def _is_used(self, scope: str, now: float) -> bool:
        counting = self._make_snapshot(scope).counted.values()
        return bool(self._near.call_log(scope).entries) or any(until > now for parts in counting for until, _ in parts)

    async def _restore(self) -> bool:
        """Tell a Redis that answers again all that this replica called, and return whether that was done."""
        self._unsent.clear()  # what has ended so far is in the log of this replica
        self._restored.clear()
        try:
            life = await self._adopt_store_run()
            while missing := [each for each in self._near.scopes() if each not in self._restored]:
                for scope in missing:
                    await self._restore_scope(scope, life)
        except StoreUnavailableError:
            self._restored.clear()
            return False
        self._back_at, self._away_since = self._clock(), None
        self._restored.clear()
        self._report_in_background()
        return True

    async def _adopt_store_run(self) -> bytes:
        life, _ = await self._send("", _UnsentReport(), [], known=b"")
        if self._store_run not in (None, life):
            self._blind_at = self._clock() if self._away_since is None else self._away_since
        self._store_run, self._replicas_seen = life, dict.fromkeys(self._replicas_seen, self._clock())
        while self._dropped:
            scope, lease = self._dropped[-1]
            await self._send(scope, _UnsentReport(dropped=[lease]), [], known=life)
            self._dropped.pop()
        return life

    async def _restore_scope(self, scope: str, life: bytes) -> None:
        told = {name: AdvertisedLimit(name, each) for name, each in self._near.advertised_limits(scope).items()}
        sent: set[str] = set()
        while True:
            now, log = self._clock(), self._near.call_log(scope)
            calls = [(lease, _us(now - since)) for since, lease in log.entries if self._is_own(lease)]
            calls = [each for each in calls if each[0] not in sent][:_MAX_SENT]
            if not (calls or told):
                break
            cooldown_s = log.cooldown_until - now if log.probe_next and log.cooldown_until > now else None
            await self._send(scope, _UnsentReport(advertised=told, cooldown_s=cooldown_s, calls=calls), [], known=life)
            sent.update(lease for lease, _ in calls)
            told = {}
        self._restored.add(scope)

    def _lose(self) -> None:
        """Go on without Redis, until all that this replica called is written there again."""
        self._restored.clear()
        if self._away_since is None:
            self._away_since = self._clock()
            self._is_lost.set()
        self._maintain_in_background()

    def _is_away_for(self, seconds: float) -> bool:
        return self._away_since is not None and self._clock() >= self._away_since + seconds

    def _drop(self, scope: str, lease: str) -> None:
        if len(self._dropped) < _MAX_DROPPED:
            self._dropped.append((scope, lease))

    async def _ask(self, scope: str, taking: list[object]) -> Granted | Wait:
        """Tell Redis what it does not know of *scope*, and return whether a call may be made, where one is wanted."""
        number, sent_at = self._latest_number, self._clock()
        unsent = self._unsent.pop(scope, _UnsentReport())
        try:
            life, said = await self._send(scope, unsent, taking, known=self._store_run or b"")
        except StoreUnavailableError:
            self._lose()
            raise
        self._store_run = life
        try:
            if not self._is_settling(scope):
                self._state(scope, said, number=number, sent_at=sent_at)
            return self._read_reply(scope, str(taking[0]) if taking else "", said)
        except Exception as error:
            self._lose()  # nobody knows what it granted, so what this replica called is told once more
            raise StoreUnavailableError("redis: a reply of the budget that makes no sense") from error

    async def _send(
        self, scope: str, unsent: _UnsentReport, taking: list[object], *, known: bytes
    ) -> tuple[bytes, list[Any]]:
        """Return the life of the budgets in Redis, and what it says of *scope*.

        Raises `StoreUnavailableError` where Redis does not answer, and where its life is not the *known* one: then
        what was called before is not logged there.
        """
        order = self._make_order(unsent, taking)
        life, said = await self._breaker.call(
            "budget",
            lambda: self._store.run_rate_limit_script(scope, order, store_run=secrets.token_bytes(8), known=known),
            timeout_s=self._timeout_s,
        )
        if not said:
            raise StoreUnavailableError("redis: another life, what was called before is not logged there")
        return life, said

    def _read_reply(self, scope: str, lease: str, said: list[Any]) -> Granted | Wait:
        granted, wait_us, closed, left, _, replicas, *limits = said
        self._note_replicas(replicas)
        told = {name.decode(): RateLimit.from_counted_s(most, us / _US_PER_S) for name, most, us, _ in limits if name}
        self._near.record_advertised(scope, told)
        if len(self._replicas()) > 1:
            self._accompanied_at = self._clock()
        if granted:
            return Granted(lease, left / _US_PER_S)
        if lease and closed:
            self._near.start_cooldown(scope, wait_us / _US_PER_S)
        return Wait(wait_us / _US_PER_S, is_cooldown=bool(closed))

    def _state(self, scope: str, said: list[Any], *, number: int, sent_at: float) -> None:
        """Remember how the budget of *scope* stands."""
        now, known, life = self._clock(), self._make_snapshot(scope), self._store_run or b""
        at, _, *limits = said[4:]
        counted = {
            name.decode() or CONFIGURED: [
                (now + us / _US_PER_S, n) for n, us in zip(parts[::2], parts[1::2], strict=True)
            ]
            for name, _, _, parts in limits
        }
        number = max(number, known.number) if known.store_run == life else number
        statement = LogSnapshot(counted, store_run=life, at=at, sent_at=sent_at, received_at=now, number=number)
        if statement.is_newer_than(known):
            self._snapshots[scope] = statement
            self._snapshots.move_to_end(scope)
            if len(self._snapshots) > _MAX_SCOPES:
                self._snapshots.popitem(last=False)

    def _make_snapshot(self, scope: str) -> LogSnapshot:
        return self._snapshots.get(scope) or LogSnapshot()

    def _make_order(self, unsent: _UnsentReport, taking: list[object]) -> bytes:
        told = [
            [each.name, each.limit.calls, _us(each.limit.counted_s), -1 if each.remaining is None else each.remaining]
            for each in unsent.advertised.values()
        ]
        configured = [self._configured.calls, _us(self._configured.counted_s)] if self._configured else []
        close = -1 if unsent.cooldown_s is None else _us(unsent.cooldown_s)
        return orjson.dumps(
            {
                "ended": unsent.ended,
                "told": told,
                "close": close,
                "configured": configured,
                "replica": self._name,
                "take": taking,
                "calls": unsent.calls,
                "dropped": unsent.dropped,
            }
        )

    def _next_lease(self) -> str:
        self._latest_number = next(self._numbers)
        return f"{self._name}-{self._latest_number}"

    def _is_own(self, lease: str) -> bool:
        return lease.startswith(f"{self._name}-")

    def _replicas(self) -> list[str]:
        """Return the names of all replicas: of those that listen, and of those that asked for calls, heard or not."""
        return sorted(self._peers() | self._replicas_seen.keys() | {self._name})

    def _note_replicas(self, replicas: Sequence[bytes]) -> None:
        """Remember who asked lately, for as long as Redis can be asked: one that comes back empty knows of nobody."""
        now = self._clock()
        self._replicas_seen |= {name.decode(): now for name in replicas}
        self._replicas_seen = {name: at for name, at in self._replicas_seen.items() if now - at < _REPLICA_SEEN_S}

    def _is_settling(self, scope: str) -> bool:
        """Whether another replica may not know yet that Redis is back, or what it did meanwhile still counts."""
        if self._away_since is not None:
            return True
        if self._mode == "share":
            return self._clock() < self._back_at + OUTAGE_NOTICED_S
        if self._listens and not self._in_touch():
            return True
        return self._clock() < self._back_at + OUTAGE_NOTICED_S + self._hold_s + self._near.counted_s(scope)

    def _take_own_share(self, scope: str, priority: Priority, lease: str) -> Granted | Wait:
        """Take a call of this replica's own part."""
        return (self._take_share if self._mode == "share" else self._take_held)(scope, priority, lease)

    def _take_share(self, scope: str, priority: Priority, lease: str) -> Granted | Wait:
        now, replicas = self._clock(), self._replicas()
        log, statement = self._near.call_log(scope), self._make_snapshot(scope)
        own = [since for since, each in log.entries if self._is_own(each) and _number(each) > statement.number]
        limits = limits_by_name(log, self._configured)
        share = ReplicaShare(limits, statement, own, rank=replicas.index(self._name), among=len(replicas))
        if (wait_s := share.wait_s(priority, now=now)) > 0:
            return Wait(wait_s, is_uncertain=True)
        verdict = self._near.take_now(scope, priority, lease=lease)
        return replace(verdict, left_share=share.left(now=now)) if isinstance(verdict, Granted) else verdict

    def _take_held(self, scope: str, priority: Priority, lease: str) -> Granted | Wait:
        now, counted_s = self._clock(), self._near.counted_s(scope)
        peers = self._replicas()
        if len(peers) > 1:
            self._accompanied_at = max(self._accompanied_at, self._away_since or self._blind_at)
        wait_s = self._unknown_since() + max(self._hold_s + counted_s, self._notice_s) - now
        if counted_s and not self._is_alone(counted_s) and wait_s > 0:
            return Wait(wait_s, is_uncertain=True)
        verdict = self._near.take_now(scope, priority, lease=lease, rank=peers.index(self._name), among=len(peers))
        return replace(verdict, is_uncertain=not verdict.is_cooldown) if isinstance(verdict, Wait) else verdict

    def _is_alone(self, counted_s: float) -> bool:
        return self._clock() >= self._accompanied_at + self._hold_s + counted_s

    def _unknown_since(self) -> float:
        """Return until when others may have been granted calls that this replica can't know of."""
        return self._blind_at if self._away_since is None else self._away_since


def _number(lease: str) -> int:
    return int(lease.rpartition("-")[2])


def _us(seconds: float) -> int:
    return round(seconds * _US_PER_S)
