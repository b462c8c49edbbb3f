"""The rate-limit shield, put together from the settings of `budget` and `clients`."""

from __future__ import annotations

import time
from random import random

from prometheus_client import CollectorRegistry

from proxy.config.model import Settings
from proxy.core.call_context import Priority
from proxy.core.messages import Upstream
from proxy.core.partition import Partitioner
from proxy.gateway.admission import Admission
from proxy.listing.prefetch import Thrift
from proxy.observability.logging import Telemetry
from proxy.ratelimit.limiter import Limiter, ShieldState
from proxy.ratelimit.memory_store import Ledger, MemoryLedger
from proxy.ratelimit.metrics import ShieldMetrics
from proxy.ratelimit.priority import Claimants
from proxy.ratelimit.queue import Turns
from proxy.ratelimit.resilience import Breaker
from proxy.ratelimit.sliding_window import Allowance
from proxy.storage.base import SpanStore

_ARRIVAL_S = 2.0  # beyond the time that connecting may take
_ALL = "all"
_IAM = "iam"
_LEAST_TIMEOUT_S = 0.25  # a call that waits for its turn can wait for Redis too
_LEDGER_S = 0.25  # beside what a request waits for stored answers; then its replica goes by its share
_IAM_WAIT_S = 5.0  # who waits longer for IAM does better without a verdict, uncached


class Shield:
    """The limiter before *upstream* and what it needs. Its books are in Redis where *store* is."""

    def __init__(self, settings: Settings, upstream: Upstream, store: SpanStore, telemetry: Telemetry) -> None:
        budget = settings.budget
        self._settings = settings
        self._hold_s = settings.upstream.connect_timeout_s + _ARRIVAL_S
        self.metrics = ShieldMetrics(telemetry.registry)
        self.ledger = self._ledger(store, allowance(budget.calls, budget.per_s))
        self._all = _ALL if budget.scope == "upstream" else None
        self._turns = self._queue(self.metrics)
        self.metrics.gates.set_function(lambda: self._turns.queues().closed)
        self._iam_limiter: Limiter | None = None
        self._iam_turns = self._queue(ShieldMetrics(CollectorRegistry()))
        self.limiter = self._limiter(
            upstream, self._turns, url=settings.upstream.url, scope=self._all, max_wait_s=budget.max_wait_s
        )
        self.metrics.concurrency.set_function(lambda: self._turns.permits.limit)
        self.metrics.breaker.set_function(lambda: self.limiter.left_alone_s() is not None)
        self.metrics.without_store.set_function(lambda: self.ledger.without_store() is not None)

    def before_iam(self, iam: Upstream) -> Limiter:
        """Return the limiter before *iam*: its calls count where there is one budget for all, else towards one of its
        own.

        IAM is another server, so it has a queue, a breaker and a concurrency limit of its own. Their gauges have the
        names of the image API's, so they are not shown; how its calls end is counted with all others.
        """
        wait_s = min(_IAM_WAIT_S, self._settings.budget.max_wait_s)
        url = self._settings.identity.iam_url
        self._iam_limiter = self._limiter(iam, self._iam_turns, url=url, scope=self._all or _IAM, max_wait_s=wait_s)
        return self._iam_limiter

    def _queue(self, metrics: ShieldMetrics) -> Turns:
        most = self._settings.upstream.max_connections
        return Turns(self.ledger, most=most, hold_s=self._hold_s, clock=time.monotonic, metrics=metrics)

    def _limiter(self, upstream: Upstream, turns: Turns, *, url: str, scope: str | None, max_wait_s: float) -> Limiter:
        return Limiter(
            upstream,
            turns,
            url=url,
            max_wait_s=max_wait_s,
            scope=scope,
            metrics=turns.metrics,
            clock=time.monotonic,
            now=time.time,
            dice=random,
            retries=self._settings.upstream.retries,
            breaker=Breaker(tolerated=self._settings.upstream.tolerated_failures),
        )

    def claimants(self, partitioner: Partitioner) -> Claimants:
        """Return how requests are told apart and ranked."""
        clients = self._settings.clients
        usual = Priority.BATCH if clients.priority == "batch" else Priority.INTERACTIVE
        keyed = self._settings.identity.mode == "gateway"
        return Claimants(partitioner, usual, chosen=clients.may_choose_priority, keyed=keyed)

    def admission(self) -> Admission:
        """Return what callers may ask of the proxy."""
        clients = self._settings.clients
        return Admission(
            allowance=allowance(clients.calls, clients.per_s),
            each=clients.max_concurrent,
            all_of_them=self._settings.server.max_concurrent,
            clock=time.monotonic,
        )

    def state(self) -> ShieldState:
        """Return how the shield stands at the moment."""
        permits = self._turns.permits
        return ShieldState(
            self.ledger.usage(),
            self._turns.queues(),
            left_alone_s=self.limiter.left_alone_s(),
            concurrency_limit=permits.limit,
            under_way=permits.under_way,
            without_store=self.ledger.without_store(),
        )

    def thrift(self) -> Thrift:
        """Return what is left undone while a budget runs low."""
        return Thrift(self.limiter.low, saved=lambda purpose: self.metrics.thrifty.labels(purpose).inc())

    def listening(self) -> None:
        """See `SharedLedger.listening`."""
        self.ledger.listening()

    async def start(self) -> None:
        """Learn how the books stand."""
        await self.ledger.start()

    async def close(self) -> None:
        """Give no more turns, and close the books."""
        await self.limiter.close()
        if self._iam_limiter is not None:
            await self._iam_limiter.close()
        await self._turns.close()
        await self._iam_turns.close()
        await self.ledger.close()

    def _ledger(self, store: SpanStore, configured: Allowance | None) -> Ledger:
        near = MemoryLedger(configured, hold_s=self._hold_s, clock=time.monotonic)
        if self._settings.store.url.startswith("memory:"):
            return near
        from proxy.ratelimit.redis_store import SharedLedger
        from proxy.storage.tiered import TieredStore

        assert isinstance(store, TieredStore)
        return SharedLedger(
            store.far,
            near,
            configured,
            name=store.bus.name,
            peers=lambda: store.bus.peers,
            in_touch=lambda: store.bus.trusted,
            notice_s=2 * self._settings.store.near_ttl_s,
            hold_s=self._hold_s,
            timeout_s=min(_LEDGER_S, self._settings.store.timeout_ms / 1000),
            breaker=store.breaker,
            without_store=self._settings.budget.without_store,
            watched=(_ALL,) if self._settings.budget.scope == "upstream" else (),
        )


def allowance(calls: int | None, per_s: float | None) -> Allowance | None:
    """Return the limit of *calls* in *per_s*, None where it is off."""
    return Allowance(calls, per_s) if calls is not None and per_s is not None else None
