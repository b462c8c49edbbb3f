"""`GET /stats`: what the proxy does and saves, how its budget and its parts stand.

It is computed from a snapshot of the metrics, added up by label. Quantiles come from histograms, so they are as exact
as the buckets are narrow.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from typing import Any, Final

from prometheus_client import CollectorRegistry, Metric

from proxy import __version__
from proxy.core.cache_status import FwdReason
from proxy.ratelimit.limiter import RateLimitState
from proxy.ratelimit.memory_store import StoreOutage
from proxy.ratelimit.sliding_window import RateLimit
from proxy.storage.base import SpanStore


def quantile(fraction: float, upper_bounds: Sequence[float], counts: Sequence[float]) -> float | None:
    """Return the value that *fraction* of the observations do not exceed, None where there are none.

    Bucket i counts, in *counts*, what lies above `bounds[i - 1]` and not above `bounds[i]`; within it observations are
    taken to be spread evenly. The last bound is infinity: of what lies there only its lower end is known.
    """
    rank = fraction * sum(counts)
    if rank <= 0:
        return None
    lower = below = 0.0
    for upper, count in zip(upper_bounds, counts, strict=True):
        if below + count >= rank:
            return lower if upper == inf else lower + (upper - lower) * (rank - below) / count
        lower, below = upper, below + count
    return lower


Labels = Mapping[str, str]


class MetricSamples:
    """The samples of *families*."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._samples_by_name: dict[str, list[tuple[Labels, float]]] = defaultdict(list)
        for family in families:
            for sample in family.samples:
                self._samples_by_name[sample.name].append((sample.labels, sample.value))

    def total(self, name: str, **label_values: Iterable[str]) -> int:
        """Return the sum of the samples of *name* whose labels are each among those given."""
        alike = (
            value
            for labels, value in self._samples_by_name[name]
            if all(labels[at] in label_values[at] for at in label_values)
        )
        return int(sum(alike))

    def max_value(self, name: str) -> float:
        """Return the largest of the samples of *name*, 0 where there is none."""
        return max((value for _, value in self._samples_by_name[name]), default=0.0)

    def total_by(self, name: str, label: str) -> dict[str, int]:
        """Return the sums of the samples of *name*, the largest first, by *label*."""
        sums: dict[str, float] = defaultdict(float)
        for labels, value in self._samples_by_name[name]:
            sums[labels[label]] += value
        return {at: int(value) for at, value in sorted(sums.items(), key=lambda each: (-each[1], each[0]))}

    def value_by_label(self, name: str, label: str) -> dict[str, float]:
        """Return the samples of *name* by *label*."""
        return {labels[label]: value for labels, value in self._samples_by_name[name]}

    def sum_by_labels(self, name: str, row_label: str, column_label: str) -> dict[str, dict[str, int]]:
        """Return the sums of the samples of *name* by the labels *row_label* and *column_label*."""
        sums: dict[str, dict[str, int]] = {}
        for labels, value in self._samples_by_name[name]:
            cells = sums.setdefault(labels[row_label], {})
            cells[labels[column_label]] = cells.get(labels[column_label], 0) + int(value)
        return sums

    def quantiles(self, name: str, fractions: Iterable[float], **label_values: Iterable[str]) -> list[float | None]:
        """Return the quantiles of the histogram *name*, seconds, of the samples whose labels are among those given."""
        cumulative: dict[float, float] = defaultdict(float)
        for labels, value in self._samples_by_name[f"{name}_bucket"]:
            if all(labels[at] in label_values[at] for at in label_values):
                cumulative[float(labels["le"].replace("+Inf", "inf"))] += value
        bounds = sorted(cumulative)
        lower = [0.0, *(cumulative[bound] for bound in bounds)]
        counts = [cumulative[bound] - before for bound, before in zip(bounds, lower, strict=False)]
        return [quantile(share, bounds or [inf], counts or [0.0]) for share in fractions]


# Requests that are answered from the store, or could have been (RFC 9211): not those that only pass through.
_MISS_STATUSES: Final = frozenset(
    {FwdReason.URI_MISS, FwdReason.MISS, FwdReason.REQUEST, FwdReason.STALE, FwdReason.PARTIAL}
)
_FORWARDED_STATUSES: Final = frozenset(fwd.value for fwd in FwdReason)
_COUNTED_STATUSES: Final = _FORWARDED_STATUSES | {"hit"}
_REJECTED_CALLS_METRIC: Final = "ims_proxy_rejected_calls_total"
_CIRCUIT_OPEN_REASONS: Final = frozenset({"circuit_open"})  # the reason that is the breaker's, and not the budget's
_QUANTILES: Final = {"p50_s": 0.5, "p99_s": 0.99}

Stats = dict[str, Any]


class StatsCollector:
    """The figures, made anew each time; *max_bytes* is the bound of process memory, *clock* gives epoch seconds."""

    def __init__(
        self,
        registry: CollectorRegistry,
        store: SpanStore,
        limiter_state: Callable[[], RateLimitState],
        *,
        max_bytes: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._registry = registry
        self._store = store
        self._limiter_state = limiter_state
        self._max_bytes = max_bytes
        self._clock = clock
        self._started_at = clock()

    def __call__(self) -> Stats:
        """Return all figures, fit for JSON."""
        samples = MetricSamples(self._registry.collect())
        now = self._clock()
        state = self._limiter_state()
        return {
            "version": __version__,
            "timestamp": round(now, 3),
            "uptime_s": round(max(0.0, now - self._started_at), 3),
            **stats_from_metrics(samples),
            "budget": _budget_stats(samples, state),
            "circuit_breaker": {
                "open": state.circuit_open_s is not None,
                "retry_in_s": _round(state.circuit_open_s),
                "rejected": samples.total(_REJECTED_CALLS_METRIC, reason=_CIRCUIT_OPEN_REASONS),
            },
            "concurrency": {"limit": state.concurrency_limit, "in_flight": state.in_flight},
            "store": self._store_stats(samples),
            "processes": 1,
        }

    def _store_stats(self, samples: MetricSamples) -> Stats:
        health = self._store.health()
        return {
            "parts": dict(health.parts),
            "listings": health.listings,
            "spans": health.spans,
            "bytes": self._store.stored_bytes,
            "max_bytes": self._max_bytes,
            "replicas": health.replicas,
            "errors": samples.total_by("ims_proxy_store_errors_total", "operation"),
        }


def stats_from_metrics(samples: MetricSamples) -> Stats:
    """Return what can be told from the metrics alone, so of several processes too."""
    lag_s = round(samples.max_value("ims_proxy_event_loop_lag_seconds"), 4)
    return {"requests": _request_stats(samples), "upstream": _upstream_stats(samples), "event_loop": {"lag_s": lag_s}}


def _request_stats(samples: MetricSamples) -> Stats:
    name = "ims_proxy_requests_total"
    hits = samples.total(name, cache_status=["hit"])
    misses = samples.total(name, cache_status=[fwd.value for fwd in _MISS_STATUSES])
    return {
        "total": samples.total(name),
        "hits": hits,
        "hit_ratio": round(hits / (hits + misses), 4) if hits + misses else None,
        "collapsed": samples.total("ims_proxy_collapsed_requests_total"),
        "by_route": samples.sum_by_labels(name, "route", "cache_status"),
        "by_status": samples.total_by(name, "status"),
        "duration": {
            "hit": _latency_stats(samples, ["hit"]),
            "forwarded": _latency_stats(samples, _FORWARDED_STATUSES),
        },
    }


def _latency_stats(samples: MetricSamples, cache_statuses: Any) -> Stats:
    told = samples.quantiles("ims_proxy_request_duration_seconds", _QUANTILES.values(), cache_status=cache_statuses)
    return {label: _round(value, 6) for label, value in zip(_QUANTILES, told, strict=True)}


def _upstream_stats(samples: MetricSamples) -> Stats:
    """Return the calls by purpose, and how many were saved: without the proxy each request would have been one."""
    by_purpose = samples.total_by("ims_proxy_upstream_calls_total", "purpose")
    retried = samples.total("ims_proxy_retried_calls_total")
    calls = sum(by_purpose.values()) + retried
    return {
        "calls": calls,
        "by_purpose": by_purpose,
        "by_status": samples.total_by("ims_proxy_upstream_calls_total", "status"),
        "retried": retried,
        "throttled": samples.total("ims_proxy_throttled_calls_total"),
        "saved": samples.total("ims_proxy_requests_total", cache_status=_COUNTED_STATUSES) - calls,
    }


def _budget_stats(samples: MetricSamples, state: RateLimitState) -> Stats:
    """Return how the tightest budget stands, by what this process called; `None` where no limit is known."""
    usage, queues = state.usage, state.queues
    calls = samples.value_by_label("ims_proxy_advertised_limit_calls", "policy")
    per_s = samples.value_by_label("ims_proxy_advertised_limit_period_seconds", "policy")
    return {
        "limit": _limit_to_dict(usage.limit) if usage else None,
        "used": usage.used if usage else None,
        "remaining_ratio": round(usage.left_share, 4) if usage else None,
        "advertised_limits": {policy: _limit_to_dict(RateLimit(int(calls[policy]), per_s[policy])) for policy in calls},
        "budgets": queues.budgets,
        "low": queues.low,
        "cooldowns": queues.cooling_down,
        "cooldown_s": _round(queues.cooldown_s) if queues.cooling_down else None,
        "queued": queues.waiting,
        "rejected": samples.total(_REJECTED_CALLS_METRIC)
        - samples.total(_REJECTED_CALLS_METRIC, reason=_CIRCUIT_OPEN_REASONS),
        "background_skipped": samples.total_by("ims_proxy_background_skipped_total", "purpose"),
        "without_store": _store_outage_stats(state.store_outage),
    }


def _store_outage_stats(state: StoreOutage | None) -> Stats | None:
    if state is None:
        return None
    return {"mode": state.mode, "share": state.share, "no_calls_for_s": _round(state.no_calls_for_s)}


def _limit_to_dict(limit: RateLimit) -> Stats:
    return {"calls": limit.calls, "per_s": limit.per_s}


def _round(value: float | None, digits: int = 3) -> float | None:
    return None if value is None else round(value, digits)
