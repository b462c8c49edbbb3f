"""The figures of several processes as those of one proxy.

Counts come from the sums of all metrics, because quantiles can't be added up. The rest is how each process stands: what
each has of its own is added up, and of what they share, each reports the part that it sees.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from proxy.admin.samples import Samples
from proxy.admin.stats import Figures, counted


def merged(samples: Samples, each: Sequence[Figures]) -> Figures:
    """Return the figures of the processes that told *each*, one at least; *samples* are their metrics, added up."""
    first = max(each, key=lambda figures: figures["at"])
    return {
        **first,
        **counted(samples),
        "uptime_s": max(figures["uptime_s"] for figures in each),
        "budget": _budget([figures["budget"] for figures in each]),
        "breaker": {
            "open": any(figures["breaker"]["open"] for figures in each),
            "retry_in_s": _most(figures["breaker"]["retry_in_s"] for figures in each),
            "refused": sum(figures["breaker"]["refused"] for figures in each),
        },
        "concurrency": _sums([figures["concurrency"] for figures in each], ("limit", "under_way")),
        "store": _store([figures["store"] for figures in each]),
        "processes": len(each),
    }


def _budget(each: Sequence[Figures]) -> Figures:
    """Return how the tightest budget stands; its books are shared, and each process knows of its own calls."""
    known = [budget for budget in each if budget["allowance"]]
    tightest = min(known, key=lambda budget: budget["left_ratio"], default=each[0])
    used = sum(budget["used"] for budget in known if budget["allowance"] == tightest["allowance"])
    left = max(0.0, 1.0 - used / max(1, tightest["allowance"]["calls"])) if known else None
    return {
        **tightest,
        **_sums(each, ("low", "waiting", "refused")),
        "used": used if known else None,
        "left_ratio": None if left is None else round(left, 4),
        "learnt": {policy: limit for budget in each for policy, limit in budget["learnt"].items()},
        "budgets": max(budget["budgets"] for budget in each),
        "gates_closed": max(budget["gates_closed"] for budget in each),
        "closed_for_s": _most(budget["closed_for_s"] for budget in each),
        "thrift": _added(budget["thrift"] for budget in each),
        "without_store": next((without for budget in each if (without := budget["without_store"])), None),
    }


def _store(each: Sequence[Figures]) -> Figures:
    parts: dict[str, str] = {}
    for store in each:
        for name, said in store["parts"].items():
            if parts.get(name, "ok") == "ok":
                parts[name] = said
    return {
        "parts": parts,
        **_sums(each, ("listings", "spans", "bytes", "max_bytes")),
        "replicas": max(store["replicas"] for store in each),
        "errors": _added(store["errors"] for store in each),
    }


def _sums(each: Iterable[Figures], names: Iterable[str]) -> Figures:
    return {name: sum(figures[name] for figures in each) for name in names}


def _added(each: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for counts in each:
        total.update(counts)
    return dict(total)


def _most(values: Iterable[Any]) -> Any:
    return max((value for value in values if value is not None), default=None)
