"""How requests ended: counted in plain numbers, turned into metrics when somebody asks for them.

Each request is counted, those that are answered in a few microseconds too; prometheus_client's own counters take a lock
and several calls for each. Everything here runs in the event loop.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Final

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

Log = Callable[["RequestRecorder", float, str], None]


class RequestRecorder:
    """Requests that ended in one way; *seconds* are the upper ends of the buckets that they are counted in."""

    __slots__ = ("_log", "_seconds", "cache_status", "counts", "elapsed_s", "method", "route", "status")

    def __init__(
        self, method: str, route: str, status: int, cache_status: str, seconds: tuple[float, ...], log: Log | None
    ) -> None:
        self.method, self.route, self.status, self.cache_status = method, route, status, cache_status
        self.counts = [0] * (len(seconds) + 1)
        self.elapsed_s = 0.0
        self._seconds = seconds
        self._log = log

    def record(self, elapsed_s: float, request_id: str | bytes) -> None:
        """One more request was answered."""
        self.counts[bisect_left(self._seconds, elapsed_s)] += 1
        self.elapsed_s += elapsed_s
        if self._log is not None:
            self._log(self, elapsed_s, request_id if isinstance(request_id, str) else request_id.decode())


class RequestCollector(Collector):
    """Every way in which requests ended. *log* is told of each request, None where nothing is logged."""

    def __init__(self, seconds: tuple[float, ...], *, log: Log | None) -> None:
        self._seconds = seconds
        self._log = log
        self._recorders: dict[tuple[str, str, int, str], RequestRecorder] = {}

    def recorder(self, *, method: str, route: str, status: int, cache_status: str) -> RequestRecorder:
        """Return where requests that end this way are counted; there are few ways."""
        at = (method, route, status, cache_status)
        found = self._recorders.get(at)
        if found is None:
            found = self._recorders[at] = RequestRecorder(method, route, status, cache_status, self._seconds, self._log)
        return found

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        yield self._totals()
        yield self._durations()

    def _totals(self) -> Metric:
        totals: Counter[tuple[str, str, str]] = Counter()
        for seen in self._recorders.values():
            totals[seen.route, seen.cache_status, str(seen.status)] += sum(seen.counts)
        family = CounterMetricFamily(
            "ims_proxy_requests",
            "Requests answered, by route, cache status (RFC 9211) and status code",
            labels=["route", "cache_status", "status"],
        )
        for labels, total in totals.items():
            family.add_metric(list(labels), total)
        return family

    def _durations(self) -> Metric:
        family = HistogramMetricFamily(
            "ims_proxy_request_duration_seconds",
            "Seconds from a request's head to the end of its answer",
            labels=["route", "cache_status"],
        )
        bounds: Final = [*map(str, self._seconds), "+Inf"]
        for route, cache_status in {(seen.route, seen.cache_status): None for seen in self._recorders.values()}:
            alike = [
                seen for seen in self._recorders.values() if (seen.route, seen.cache_status) == (route, cache_status)
            ]
            counts = accumulate(map(sum, zip(*(seen.counts for seen in alike), strict=True)))
            buckets = list(zip(bounds, map(float, counts), strict=True))
            family.add_metric([route, cache_status], buckets, sum(seen.elapsed_s for seen in alike))
        return family
