"""The shield's own metrics. Labels come from fixed sets; no caller and no partition is one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from proxy.core.call_context import Priority
from proxy.ratelimit.sliding_window import RateLimit

_REFUSAL_REASONS: Final = ("circuit_open", "no_wait", "queue_full", "shutting_down", "wait_timeout", "wait_too_long")
_SECONDS: Final = (0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class RateLimitMetrics:
    """What callers wait for, what is refused, and what the upstream says of its limits."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.waiting = Gauge(
            "ims_proxy_queued_calls", "Calls that wait for their turn, by class", ["priority"], registry=registry
        )
        self._waits: dict[Priority, Histogram] = {}  # looked up by their label once
        self._wait_seconds = Histogram(
            "ims_proxy_queue_wait_seconds",
            "Seconds a call waited for its turn, by class",
            ["priority"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.refused = Counter(
            "ims_proxy_rejected_calls",
            "Calls that were not made, by class and reason",
            ["priority", "reason"],
            registry=registry,
        )
        for priority in Priority:  # at 0 from the start, or Prometheus sees no increase in the first of each
            for reason in _REFUSAL_REASONS:
                self.refused.labels(priority.label, reason)
        self.throttled = Counter(
            "ims_proxy_throttled_calls", "Calls that the upstream refused as too many", registry=registry
        )
        self.retried = Counter("ims_proxy_retried_calls", "Calls made again, by reason", ["reason"], registry=registry)
        self.left = Gauge(
            "ims_proxy_budget_remaining_ratio",
            "Share of the budget left after the latest call taken",
            registry=registry,
        )
        self.prefetch_skipped = Counter(
            "ims_proxy_background_skipped",
            "What was not fetched because the budget ran low: prefetch, revalidate",
            ["purpose"],
            registry=registry,
        )
        self.concurrency = Gauge(
            "ims_proxy_concurrency_limit", "Calls that may be under way at once", registry=registry
        )
        self.breaker = Gauge(
            "ims_proxy_upstream_circuit_open", "Whether the upstream is left alone because it fails", registry=registry
        )
        self.cooldowns = Gauge(
            "ims_proxy_cooldowns_active",
            "Budgets that nobody calls from, for the upstream refused a call",
            registry=registry,
        )
        self.store_outage = Gauge(
            "ims_proxy_budget_without_store",
            "Whether replicas can't count their calls together, so that each goes by a part of the budget",
            registry=registry,
        )
        self._learnt_calls = Gauge(
            "ims_proxy_advertised_limit_calls",
            "Calls that the upstream allows, by its policy",
            ["policy"],
            registry=registry,
        )
        self._learnt_seconds = Gauge(
            "ims_proxy_advertised_limit_period_seconds",
            "The period of that limit, by policy",
            ["policy"],
            registry=registry,
        )
        self.left.set(1.0)

    def record_wait(self, priority: Priority, seconds: float) -> None:
        """A call of class *priority* has waited so long for its turn."""
        waits = self._waits.get(priority)
        if waits is None:
            waits = self._waits[priority] = self._wait_seconds.labels(priority.label)
        waits.observe(seconds)

    def record_advertised(self, limits: Mapping[str, RateLimit]) -> None:
        """The upstream has told *limits*."""
        for policy, limit in limits.items():
            self._learnt_calls.labels(policy).set(limit.calls)
            self._learnt_seconds.labels(policy).set(limit.per_s)
