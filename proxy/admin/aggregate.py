"""One admin port over several workers: asks each of them, and adds up what they say.

| path | answer |
|---|---|
| `/healthz` | this process's own |
| `/readyz` | 200 when every worker is ready; what each says, part by part; 503 at once when all are told to stop |
| `/metrics` | sums over the workers; of what can't be added, the least or the most |
| `/stats` | the same for its figures |
| any other | that of a worker that lives: what it is told of the store, all of them hear |

A worker guards its own port too, which is on loopback: it is asked with the same credentials.

Counters are kept so that sums never go back when a worker dies or does not answer.

A reader takes a counter that went back for one that began anew at 0 (Prometheus' `rate`): everything that the other
workers had counted before would seem to have happened since.

Counts come from the sums of all metrics, because quantiles can't be added up. The rest is how each process stands: what
each has of its own is added up, and of what they share, each reports the part that it sees.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import aiohttp
import orjson
from aiohttp import web
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from proxy.admin.app import DRAINING_STATUS, healthz
from proxy.admin.auth import AdminRequestError, make_guard
from proxy.admin.stats import MetricSamples, Stats, stats_from_metrics
from proxy.core.values import immutable

_ADDITIVE_TYPES: Final = frozenset({"counter", "histogram"})

Families = Sequence[Metric]


class EndedCounters:
    """What each worker said last, and what those counted that ended; *sum_families* adds up."""

    def __init__(self, sum_families: Callable[[Sequence[Families]], Families]) -> None:
        self._sum_families = sum_families
        self._latest: dict[int, Families] = {}
        self._ended_totals: list[Families] = []

    def add_up(self, reported: Sequence[Families | None]) -> list[Families]:
        """Return what to add up now that each worker *reported* this, None where it did not answer."""
        now: list[Families] = []
        for number, families in enumerate(reported):
            before = self._latest.get(number, ())
            if families is None:
                now.append(filter_counters(before))
                continue
            if _was_reset(before, families):
                self._ended_totals = [self._sum_families([*self._ended_totals, filter_counters(before)])]
            self._latest[number] = families
            now.append(families)
        return [*now, *self._ended_totals]


def filter_counters(families: Families) -> list[Metric]:
    """Return those of *families* that only grow."""
    return [family for family in families if family.type in _ADDITIVE_TYPES]


def _was_reset(before: Families, now: Families) -> bool:
    """Whether *now* is said by a process that began after *before* was said."""
    values = _values_by_series(filter_counters(now))
    return any(values.get(name, 0.0) < value for name, value in _values_by_series(filter_counters(before)).items())


def _values_by_series(families: Families) -> Mapping[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sample.labels.items())): sample.value for family in families for sample in family.samples
    }


def merge_stats(samples: MetricSamples, worker_stats: Sequence[Stats]) -> Stats:
    """Return the figures of the processes that told *worker_stats*, one at least; *samples* are their metrics, added
    up.
    """
    first = max(worker_stats, key=lambda figures: figures["timestamp"])
    return {
        **first,
        **stats_from_metrics(samples),
        "uptime_s": max(figures["uptime_s"] for figures in worker_stats),
        "budget": _merge_budget([figures["budget"] for figures in worker_stats]),
        "circuit_breaker": {
            "open": any(figures["circuit_breaker"]["open"] for figures in worker_stats),
            "retry_in_s": _max_value(figures["circuit_breaker"]["retry_in_s"] for figures in worker_stats),
            "rejected": sum(figures["circuit_breaker"]["rejected"] for figures in worker_stats),
        },
        "concurrency": _sum_keys([figures["concurrency"] for figures in worker_stats], ("limit", "in_flight")),
        "store": _merge_store([figures["store"] for figures in worker_stats]),
        "processes": len(worker_stats),
    }


def _merge_budget(budgets: Sequence[Stats]) -> Stats:
    """Return how the tightest budget stands; the call log is shared, and each process knows its own calls."""
    known = [budget for budget in budgets if budget["limit"]]
    tightest = min(known, key=lambda budget: budget["remaining_ratio"], default=budgets[0])
    used = sum(budget["used"] for budget in known if budget["limit"] == tightest["limit"])
    left = max(0.0, 1.0 - used / max(1, tightest["limit"]["calls"])) if known else None
    return {
        **tightest,
        **_sum_keys(budgets, ("low", "queued", "rejected")),
        "used": used if known else None,
        "remaining_ratio": None if left is None else round(left, 4),
        "advertised_limits": {
            policy: limit for budget in budgets for policy, limit in budget["advertised_limits"].items()
        },
        "budgets": max(budget["budgets"] for budget in budgets),
        "cooldowns": max(budget["cooldowns"] for budget in budgets),
        "cooldown_s": _max_value(budget["cooldown_s"] for budget in budgets),
        "background_skipped": _add_up(budget["background_skipped"] for budget in budgets),
        "without_store": next((without for budget in budgets if (without := budget["without_store"])), None),
    }


def _merge_store(stores: Sequence[Stats]) -> Stats:
    parts: dict[str, str] = {}
    for store in stores:
        for name, said in store["parts"].items():
            if parts.get(name, "ok") == "ok":
                parts[name] = said
    return {
        "parts": parts,
        **_sum_keys(stores, ("listings", "spans", "bytes", "max_bytes")),
        "replicas": max(store["replicas"] for store in stores),
        "errors": _add_up(store["errors"] for store in stores),
    }


def _sum_keys(dicts: Iterable[Stats], names: Iterable[str]) -> Stats:
    return {name: sum(figures[name] for figures in dicts) for name in names}


def _add_up(counters: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for counts in counters:
        total.update(counts)
    return dict(total)


def _max_value(values: Iterable[Any]) -> Any:
    return max((value for value in values if value is not None), default=None)


# What can't be added: of these gauges the least counts, or the most.
_MIN_METRICS: Final = frozenset(
    {"ims_proxy_ready", "ims_proxy_budget_remaining_ratio", "ims_proxy_invalidation_bus_up"}
)
_MAX_METRICS: Final = frozenset(
    {"ims_proxy_upstream_circuit_open", "ims_proxy_build_info", "ims_proxy_cooldowns_active"}
    | {
        "ims_proxy_advertised_limit_calls",
        "ims_proxy_advertised_limit_period_seconds",
        "ims_proxy_budget_without_store",
    }
    | {"ims_proxy_event_loop_lag_seconds", "ims_proxy_store_circuit_open"}
)


def parse_metrics(text: str) -> Families:
    """Return the metrics in *text*, which is in Prometheus' text format."""
    return list(text_string_to_metric_families(text))


def sum_metrics(reports: Sequence[Families]) -> list[Metric]:
    """Return the sums of *reports*, by name and labels."""
    names = dict.fromkeys(family.name for families in reports for family in families)
    return [
        _sum_family([family for families in reports for family in families if family.name == name]) for name in names
    ]


def render_metrics(reports: Sequence[Families]) -> bytes:
    """Return the sums of *reports* in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_SummedCollector(reports))
    return generate_latest(registry)


class _SummedCollector(Collector):
    def __init__(self, reports: Sequence[Families]) -> None:
        self._reports = reports

    def collect(self) -> Iterator[Metric]:
        yield from sum_metrics(self._reports)


def _sum_family(families: Sequence[Metric]) -> Metric:
    total = Metric(families[0].name, families[0].documentation, families[0].type)
    values: dict[tuple[str, tuple[tuple[str, str], ...]], list[float]] = {}
    for sample in (sample for family in families for sample in family.samples):
        values.setdefault((sample.name, tuple(sample.labels.items())), []).append(sample.value)
    for (name, labels), several in values.items():
        value = min(several) if name in _MIN_METRICS else max(several) if name in _MAX_METRICS else sum(several)
        total.add_sample(name, dict(labels), value)
    return total


_WORKER_TIMEOUT_S: Final = 3.0
_PURGE_TIMEOUT_S: Final = 60.0
_CHECK_INTERVAL_S: Final = 0.05
_FORWARDED_FIELDS: Final = ("Authorization", "Accept", "Content-Type")
_OWN_FIELDS: Final = frozenset({"connection", "content-length", "date", "keep-alive", "server", "transfer-encoding"})


@immutable
class WorkerResponse:
    """What a worker answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class WorkerPool:
    """The workers' admin ports, at *urls*."""

    def __init__(self, urls: Sequence[str], session: aiohttp.ClientSession) -> None:
        self._urls = urls
        self._session = session

    @property
    def worker_numbers(self) -> range:
        """What operators know the workers by."""
        return range(1, len(self._urls) + 1)

    async def ask_all(self, path: str, request: web.Request | None = None) -> list[WorkerResponse | None]:
        """Return what each worker answers to a GET of *path*, None for one that does not answer."""
        return list(await asyncio.gather(*(self._ask(url, "GET", path, request, b"") for url in self._urls)))

    async def ask_any(self, request: web.Request) -> WorkerResponse | None:
        """Return what a worker answers to *request*, one that says that it lives: one that hangs would hold it up."""
        body = await request.read()
        looks = [asyncio.create_task(self._url_if_alive(url)) for url in self._urls]
        try:
            for look in asyncio.as_completed(looks):
                url = await look
                said = url and await self._ask(
                    url, request.method, request.raw_path, request, body, timeout_s=_PURGE_TIMEOUT_S
                )
                if said:
                    return said
            return None
        finally:
            for each in looks:
                each.cancel()
            await asyncio.gather(*looks, return_exceptions=True)

    async def _url_if_alive(self, url: str) -> str | None:
        """Return *url* if the worker there answers."""
        return url if await self._ask(url, "GET", "/healthz", None, b"") else None

    async def _ask(
        self,
        url: str,
        method: str,
        path: str,
        request: web.Request | None,
        body: bytes,
        *,
        timeout_s: float = _WORKER_TIMEOUT_S,
    ) -> WorkerResponse | None:
        sent = (
            {}
            if request is None
            else {name: request.headers[name] for name in _FORWARDED_FIELDS if name in request.headers}
        )
        limit = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with self._session.request(method, url + path, data=body, headers=sent, timeout=limit) as answer:
                told = {name: value for name, value in answer.headers.items() if name.lower() not in _OWN_FIELDS}
                return WorkerResponse(answer.status, told, await answer.read())
        except (aiohttp.ClientError, TimeoutError):
            return None


def make_aggregate_app(workers: WorkerPool, *, token: str | None, is_stopping: Callable[[], bool]) -> web.Application:
    """Return the admin application over *workers*; with a *token* it is for whoever sends that.

    From when *is_stopping* on, `/readyz` asks no worker: one that hangs would delay the answer.
    """
    asked = _Handlers(workers, is_stopping)
    app = web.Application(middlewares=[make_guard(token)])
    own = {"/healthz": healthz, "/readyz": asked.readyz, "/metrics": asked.metrics, "/stats": asked.stats}
    app.add_routes([web.get(path, handler) for path, handler in own.items()])
    app.router.add_route("*", "/{path:.*}", asked.forward)
    return app


class _Handlers:
    """What operators ask of all *workers* together."""

    def __init__(self, workers: WorkerPool, is_stopping: Callable[[], bool]) -> None:
        self._workers = workers
        self._is_stopping = is_stopping
        self._ended_counters = EndedCounters(sum_metrics)
        self._lock = asyncio.Lock()

    async def readyz(self, _: web.Request) -> web.Response:
        """Answer 200 while every worker is ready, 503 else, with what each says of its parts."""
        if self._is_stopping():
            ready, parts = (
                False,
                {f"worker {number}: listener": DRAINING_STATUS for number in self._workers.worker_numbers},
            )
        else:
            ready, parts = merge_readiness(await self._workers.ask_all("/readyz"))
        body = orjson.dumps({"ready": ready, "parts": parts})
        return web.Response(status=200 if ready else 503, body=body, content_type="application/json")

    async def metrics(self, request: web.Request) -> web.Response:
        """Answer with the sums of the workers' metrics."""
        one, families = await self._collect_metrics(request)
        if one is None or one.status != 200:
            return _to_response(one)
        return web.Response(body=render_metrics(families), headers=one.headers)

    async def stats(self, request: web.Request) -> web.Response:
        """Answer with the figures of the status page, those of all workers as of one proxy."""
        (one, families), told = await asyncio.gather(
            self._collect_metrics(request), self._workers.ask_all("/stats", request)
        )
        refused = next((each for each in (one, *told) if each is not None and each.status != 200), None)
        figures = [orjson.loads(each.body) for each in told if each is not None]
        if refused is not None or not figures:
            return _to_response(refused)
        samples = MetricSamples(sum_metrics(families))
        return web.Response(body=orjson.dumps(merge_stats(samples, figures)), content_type="application/json")

    async def forward(self, request: web.Request) -> web.Response:
        """Answer as one of the workers does."""
        return _to_response(await self._workers.ask_any(request))

    async def _collect_metrics(self, request: web.Request) -> tuple[WorkerResponse | None, list[Families]]:
        """Return the answer of a worker and the metrics of all, to be added up.

        The answer is a refusal if any worker refused, and then there are no metrics; None if no worker answered.
        """
        async with self._lock:  # so that what was said later is taken later
            said = await self._workers.ask_all("/metrics", request)
            refused = next((each for each in said if each is not None and each.status != 200), None)
            if refused is not None:
                return refused, []
            families = self._ended_counters.add_up(
                [parse_metrics(each.body.decode()) if each else None for each in said]
            )
            return next(filter(None, said), None), families


def merge_readiness(responses: Sequence[WorkerResponse | None]) -> tuple[bool, dict[str, str]]:
    """Return whether every worker is ready, and what each says of its parts."""
    parts: dict[str, str] = {}
    for number, each in enumerate(responses, 1):
        if each is None:
            parts[f"worker {number}"] = "not ready, does not answer"
            continue
        told: dict[str, str] = orjson.loads(each.body)["parts"]
        parts |= {f"worker {number}: {name}": text for name, text in told.items()}
    return all(each is not None and each.status == 200 for each in responses), parts


async def wait_until_ready(workers: WorkerPool) -> None:
    """Return when every worker has been ready once."""
    while not merge_readiness(await workers.ask_all("/readyz"))[0]:  # noqa: ASYNC110 - it is other processes that are waited for
        await asyncio.sleep(_CHECK_INTERVAL_S)


def _to_response(response: WorkerResponse | None) -> web.Response:
    if response is None:
        raise AdminRequestError(503, "workers: none answers")
    return web.Response(status=response.status, body=response.body, headers=response.headers)
