"""The figures of several processes as those of one proxy."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from proxy.admin.aggregate import merge_stats, parse_metrics, sum_metrics
from proxy.admin.stats import MetricSamples
from proxy.observability.logging import Telemetry

ONE: dict[str, Any] = {
    "version": "1",
    "timestamp": 100.0,
    "uptime_s": 50.0,
    "requests": {},
    "upstream": {},
    "budget": {
        "limit": {"calls": 10, "per_s": 60.0},
        "used": 3,
        "remaining_ratio": 0.7,
        "advertised_limits": {},
        "budgets": 1,
        "low": 0,
        "cooldowns": 0,
        "cooldown_s": None,
        "queued": 1,
        "rejected": 2,
        "background_skipped": {"prefetch": 1},
        "without_store": None,
    },
    "circuit_breaker": {"open": False, "retry_in_s": None, "rejected": 1},
    "concurrency": {"limit": 8, "in_flight": 1},
    "store": {
        "parts": {"memory": "ok", "redis": "ok"},
        "listings": 1,
        "spans": 2,
        "bytes": 100,
        "max_bytes": 1000,
        "replicas": 2,
        "errors": {"chain": 1},
    },
    "processes": 1,
}


def another() -> dict[str, Any]:
    """Return the figures of a process in trouble."""
    figures = deepcopy(ONE) | {"timestamp": 101.0, "uptime_s": 9.0}
    figures["budget"] |= {
        "used": 5,
        "remaining_ratio": 0.5,
        "cooldowns": 1,
        "cooldown_s": 7.0,
        "background_skipped": {"prefetch": 4},
        "without_store": {"mode": "share", "share": "1/2", "no_calls_for_s": 0.0},
    }
    figures["circuit_breaker"] = {"open": True, "retry_in_s": 3.0, "rejected": 4}
    figures["store"]["parts"] = {"memory": "ok", "redis": "left alone"}
    return figures


def test_what_is_counted_is_added() -> None:
    """Requests and calls come from the metrics, and so do the quantiles."""
    telemetry = Telemetry()
    telemetry.record_request(
        method="GET", route="list", status=200, cache_status="hit", elapsed_s=0.002, request_id="r"
    )
    telemetry.record_call(purpose="list", status="200", elapsed_s=0.1)
    told = merge_stats(MetricSamples(telemetry.registry.collect()), [ONE, another()])
    assert (told["requests"]["total"], told["upstream"]["calls"]) == (1, 1)
    assert told["requests"]["duration"]["hit"]["p50_s"] is not None
    assert (told["processes"], told["uptime_s"], told["timestamp"]) == (2, 50.0, 101.0)


def test_how_each_stands_is_put_together() -> None:
    """The budget's books are shared, and each process tells its own calls; trouble of one is trouble."""
    told = merge_stats(MetricSamples([]), [ONE, another()])
    assert (told["budget"]["used"], told["budget"]["remaining_ratio"]) == (8, 0.2)
    assert (told["budget"]["cooldowns"], told["budget"]["cooldown_s"]) == (1, 7.0)
    assert told["budget"]["without_store"] == {"mode": "share", "share": "1/2", "no_calls_for_s": 0.0}
    assert (told["budget"]["queued"], told["budget"]["rejected"], told["budget"]["background_skipped"]) == (
        2,
        4,
        {"prefetch": 5},
    )
    assert told["circuit_breaker"] == {"open": True, "retry_in_s": 3.0, "rejected": 5}
    assert told["concurrency"] == {"limit": 16, "in_flight": 2}
    for each in ([ONE, another()], [another(), ONE]):
        assert merge_stats(MetricSamples([]), each)["store"]["parts"] == {"memory": "ok", "redis": "left alone"}
    assert (told["store"]["bytes"], told["store"]["replicas"], told["store"]["errors"]) == (200, 2, {"chain": 2})


def test_event_loop_lag_of_several_workers_is_that_of_the_latest() -> None:
    """One worker that is late delays its callers, however many others are in time."""
    late, in_time = Telemetry(), Telemetry()
    late.watch_event_loop(lambda: 0.25)
    in_time.watch_event_loop(lambda: 0.003)
    for workers in ([late, in_time], [in_time, late]):
        families = sum_metrics([parse_metrics(each.render_metrics().decode()) for each in workers])
        assert merge_stats(MetricSamples(families), [ONE, another()])["event_loop"] == {"lag_s": 0.25}


def test_one_process_stays_as_it_is() -> None:
    """Nothing is lost or made up where there is nothing to add, nor where no limit is known."""
    told = merge_stats(MetricSamples([]), [ONE])
    assert {name: told[name] for name in ("budget", "circuit_breaker", "concurrency", "store")} == {
        name: ONE[name] for name in ("budget", "circuit_breaker", "concurrency", "store")
    }
    unlimited = deepcopy(ONE)
    unlimited["budget"] |= {"limit": None, "used": None, "remaining_ratio": None}
    assert merge_stats(MetricSamples([]), [unlimited, unlimited])["budget"]["used"] is None
