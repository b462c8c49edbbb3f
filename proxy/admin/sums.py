"""The metrics of several processes, added up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from proxy.admin.kept import Families

# What can't be added: of these gauges the least counts, or the most.
_LEAST: Final = frozenset({"ims_proxy_ready", "ims_proxy_budget_left_ratio", "ims_proxy_invalidation_bus_up"})
_MOST: Final = frozenset(
    {"ims_proxy_breaker_open", "ims_proxy_build_info", "ims_proxy_gates_closed"}
    | {"ims_proxy_learnt_calls", "ims_proxy_learnt_seconds", "ims_proxy_budget_without_store"}
    | {"ims_proxy_event_loop_lag_seconds", "ims_proxy_store_circuit_open"}
)


def parsed(text: str) -> Families:
    """Return the metrics in *text*, which is in Prometheus' text format."""
    return list(text_string_to_metric_families(text))


def summed(each: Sequence[Families]) -> list[Metric]:
    """Return the sums of *each*, by name and labels."""
    names = dict.fromkeys(family.name for families in each for family in families)
    return [_sum([family for families in each for family in families if family.name == name]) for name in names]


def exposition(each: Sequence[Families]) -> bytes:
    """Return the sums of *each* in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Summed(each))
    return generate_latest(registry)


class _Summed(Collector):
    def __init__(self, each: Sequence[Families]) -> None:
        self._each = each

    def collect(self) -> Iterator[Metric]:
        yield from summed(self._each)


def _sum(families: Sequence[Metric]) -> Metric:
    total = Metric(families[0].name, families[0].documentation, families[0].type)
    values: dict[tuple[str, tuple[tuple[str, str], ...]], list[float]] = {}
    for sample in (sample for family in families for sample in family.samples):
        values.setdefault((sample.name, tuple(sample.labels.items())), []).append(sample.value)
    for (name, labels), several in values.items():
        value = min(several) if name in _LEAST else max(several) if name in _MOST else sum(several)
        total.add_sample(name, dict(labels), value)
    return total
