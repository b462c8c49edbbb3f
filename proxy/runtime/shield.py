"""The rate-limit shield, put together from the settings of `budget` and `clients`."""

from __future__ import annotations

import time
from random import random
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from proxy.caching.background import BudgetSaver
from proxy.config.model import Settings
from proxy.core.call_context import Priority
from proxy.core.messages import Upstream
from proxy.core.partition import Partitioner
from proxy.gateway.admission import Admission
from proxy.observability.logging import Telemetry
from proxy.ratelimit.limiter import RateLimiter, RateLimitState
from proxy.ratelimit.memory_store import MemoryRateLimitStore, RateLimitStore
from proxy.ratelimit.metrics import RateLimitMetrics
from proxy.ratelimit.priority import CallPriorities
from proxy.ratelimit.queue import CallQueue
from proxy.ratelimit.resilience import UpstreamCircuit
from proxy.ratelimit.sliding_window import RateLimit

if TYPE_CHECKING:  # it imports redis, which a proxy without one does without
    from proxy.storage.tiered import TieredStore

_SLOT_HOLD_MARGIN_S = 2.0  # beyond the time that connecting may take
_SHARED_SCOPE = "all"
_IAM_SCOPE = "iam"
_MIN_TIMEOUT_S = 0.25  # a call that waits for its turn can wait for Redis too
_STORE_TIMEOUT_S = 0.25  # beside what a request waits for stored answers; then its replica goes by its share
_MAX_IAM_WAIT_S = 5.0  # who waits longer for IAM does better without a verdict, uncached


class RateLimiting:
    """The limiter before *upstream* and what it needs. It counts in the Redis of *tiered*; None: in this process."""

    def __init__(
        self, settings: Settings, upstream: Upstream, tiered: TieredStore | None, telemetry: Telemetry
    ) -> None:
        budget = settings.budget
        self._settings = settings
        self._slot_hold_s = settings.upstream.connect_timeout_s + _SLOT_HOLD_MARGIN_S
        self.metrics = RateLimitMetrics(telemetry.registry)
        self.store = self._make_rate_limit_store(tiered, to_rate_limit(budget.calls, budget.per_s))
        self._shared_scope = _SHARED_SCOPE if budget.scope == "upstream" else None
        self._queue = self._make_queue(self.metrics)
        self.metrics.cooldowns.set_function(lambda: self._queue.state().cooling_down)
        self._iam_limiter: RateLimiter | None = None
        self._iam_queue = self._make_queue(RateLimitMetrics(CollectorRegistry()))
        self.limiter = self._make_limiter(
            upstream, self._queue, url=settings.upstream.url, scope=self._shared_scope, max_wait_s=budget.max_wait_s
        )
        self.metrics.concurrency.set_function(lambda: self._queue.permits.limit)
        self.metrics.breaker.set_function(lambda: self.limiter.circuit_open_s() is not None)
        self.metrics.store_outage.set_function(lambda: self.store.store_outage() is not None)

    def make_iam_limiter(self, iam: Upstream) -> RateLimiter:
        """Return the limiter before *iam*: its calls count where there is one budget for all, else towards one of its
        own.

        IAM is another server, so it has a queue, a breaker and a concurrency limit of its own. Their gauges have the
        names of the image API's, so they are not shown; how its calls end is counted with all others.
        """
        wait_s = min(_MAX_IAM_WAIT_S, self._settings.budget.max_wait_s)
        url = self._settings.identity.iam_url
        self._iam_limiter = self._make_limiter(
            iam, self._iam_queue, url=url, scope=self._shared_scope or _IAM_SCOPE, max_wait_s=wait_s
        )
        return self._iam_limiter

    def _make_queue(self, metrics: RateLimitMetrics) -> CallQueue:
        max_connections = self._settings.upstream.max_connections
        return CallQueue(
            self.store, max_concurrent=max_connections, hold_s=self._slot_hold_s, clock=time.monotonic, metrics=metrics
        )

    def _make_limiter(
        self, upstream: Upstream, queue: CallQueue, *, url: str, scope: str | None, max_wait_s: float
    ) -> RateLimiter:
        return RateLimiter(
            upstream,
            queue,
            url=url,
            max_wait_s=max_wait_s,
            scope=scope,
            metrics=queue.metrics,
            clock=time.monotonic,
            now=time.time,
            rng=random,
            retries=self._settings.upstream.retries,
            breaker=UpstreamCircuit(max_failures=self._settings.upstream.circuit_breaker_failures),
        )

    def make_call_priorities(self, partitioner: Partitioner) -> CallPriorities:
        """Return how requests are told apart and ranked."""
        clients = self._settings.clients
        default_priority = Priority.BATCH if clients.priority == "batch" else Priority.INTERACTIVE
        by_api_key = self._settings.identity.mode == "gateway"
        return CallPriorities(
            partitioner, default_priority, may_choose=clients.allow_priority_header, by_api_key=by_api_key
        )

    def make_admission(self) -> Admission:
        """Return what callers may ask of the proxy."""
        clients = self._settings.clients
        return Admission(
            rate_limit=to_rate_limit(clients.calls, clients.per_s),
            max_per_caller=clients.max_concurrent,
            max_total=self._settings.server.max_concurrent,
            clock=time.monotonic,
        )

    def state(self) -> RateLimitState:
        """Return how the shield stands at the moment."""
        permits = self._queue.permits
        return RateLimitState(
            self.store.usage(),
            self._queue.state(),
            circuit_open_s=self.limiter.circuit_open_s(),
            concurrency_limit=permits.limit,
            in_flight=permits.in_flight,
            store_outage=self.store.store_outage(),
        )

    def make_budget_saver(self) -> BudgetSaver:
        """Return what is left undone while a budget runs low."""
        return BudgetSaver(
            self.limiter.is_low, on_skipped=lambda purpose: self.metrics.prefetch_skipped.labels(purpose).inc()
        )

    def note_connected(self) -> None:
        """See `RedisRateLimitStore.note_connected`."""
        self.store.note_connected()

    async def start(self) -> None:
        """Read the state of the call log."""
        await self.store.start()

    async def close(self) -> None:
        """Grant no more slots, and close the store."""
        await self.limiter.close()
        if self._iam_limiter is not None:
            await self._iam_limiter.close()
        await self._queue.close()
        await self._iam_queue.close()
        await self.store.close()

    def _make_rate_limit_store(self, tiered: TieredStore | None, rate_limit: RateLimit | None) -> RateLimitStore:
        memory_store = MemoryRateLimitStore(rate_limit, hold_s=self._slot_hold_s, clock=time.monotonic)
        if tiered is None:
            return memory_store
        from proxy.ratelimit.redis_store import RedisRateLimitStore

        return RedisRateLimitStore(
            tiered.far,
            memory_store,
            rate_limit,
            name=tiered.bus.name,
            peers=lambda: tiered.bus.peers,
            in_touch=lambda: tiered.bus.is_trusted,
            notice_s=2 * self._settings.store.near_cache_ttl_s,
            hold_s=self._slot_hold_s,
            timeout_s=min(_STORE_TIMEOUT_S, self._settings.store.timeout_ms / 1000),
            breaker=tiered.breaker,
            without_store=self._settings.budget.without_store,
            on_outage=(_SHARED_SCOPE,) if self._settings.budget.scope == "upstream" else (),
        )


def to_rate_limit(calls: int | None, per_s: float | None) -> RateLimit | None:
    """Return the limit of *calls* in *per_s*, None where it is off."""
    return RateLimit(calls, per_s) if calls is not None and per_s is not None else None
