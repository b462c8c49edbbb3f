"""Events, counted and logged. Never a query value, a field value or a body."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import orjson
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from proxy import __version__
from proxy.errors import CircuitOpenError, ProxyError, RateLimitedError
from proxy.observability.metrics import RequestCollector, RequestRecorder

_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

_NOT_MADE: Final = frozenset({RateLimitedError.code, CircuitOpenError.code})  # UpstreamBusyError has the second

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, that nobody asks for

logger = logging.getLogger("ims_proxy")


@dataclass(slots=True)
class UpstreamCall:
    """A call to the upstream; its *status* is empty until it is known how the call ends."""

    status: str = ""


class Telemetry:
    """The metrics of one process, and its log. Label values come from fixed sets, so that series stay few."""

    def __init__(self, *, access_log: bool = False) -> None:
        self.registry = CollectorRegistry()
        self._requests = RequestCollector(_SECONDS, log=_log_request if access_log else None)
        self.registry.register(self._requests)
        self._upstream_calls = Counter(
            "ims_proxy_upstream_calls",
            "Calls to the upstream and to IAM, by purpose and status code",
            ["purpose", "status"],
            registry=self.registry,
        )
        self._upstream_seconds = Histogram(
            "ims_proxy_upstream_call_duration_seconds",
            "Seconds a call to the upstream took",
            ["purpose"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._called: dict[tuple[str, str], tuple[Counter, Histogram]] = {}  # looked up by their labels once
        self._store_errors = Counter(
            "ims_proxy_store_errors", "Calls to the store that failed", ["operation"], registry=self.registry
        )
        self._store_circuit_open = Gauge(
            "ims_proxy_store_circuit_open", "Whether Redis is left alone because it is away", registry=self.registry
        )
        self._invalidation_bus_up = Gauge(
            "ims_proxy_invalidation_bus_up",
            "Whether writes through other replicas are heard of, or there can be none",
            registry=self.registry,
        )
        self._invalidation_bus_up.set(1)
        self._event_loop_lag = Gauge(
            "ims_proxy_event_loop_lag_seconds",
            "The longest that the event loop was late within the last 10 seconds",
            registry=self.registry,
        )
        self._collapsed = Counter(
            "ims_proxy_collapsed_requests", "Requests that waited for another's fetch", registry=self.registry
        )
        self.stored_bytes = Gauge(
            "ims_proxy_stored_bytes", "Bytes of process memory that stored spans take", registry=self.registry
        )
        self.ready = Gauge("ims_proxy_ready", "Whether the proxy takes requests", registry=self.registry)
        build = Gauge("ims_proxy_build_info", "The version that runs, always 1", ["version"], registry=self.registry)
        build.labels(__version__).set(1)

    def record_request(
        self, *, method: str, route: str, status: int, cache_status: str, elapsed_s: float, request_id: str
    ) -> None:
        """One request was answered."""
        seen = self.request_recorder(method=method, route=route, status=status, cache_status=cache_status)
        seen.record(elapsed_s, request_id)

    def request_recorder(self, *, method: str, route: str, status: int, cache_status: str) -> RequestRecorder:
        """Return where requests that end this way are counted."""
        return self._requests.recorder(method=method, route=route, status=status, cache_status=cache_status)

    @contextmanager
    def track_call(self, purpose: str, *, clock: Callable[[], float]) -> Iterator[UpstreamCall]:
        """Count the call to the upstream that is made within, and how long it takes by *clock*.

        It is counted under the status that it is given, else under the code of the error that it ends with.
        """
        call, started = UpstreamCall(), clock()
        try:
            yield call
        except ProxyError as error:
            call.status = call.status or error.code
            raise
        finally:
            elapsed_s = max(0.0, clock() - started)
            self.record_call(purpose=purpose, status=call.status or "aborted", elapsed_s=elapsed_s)

    def record_call(self, *, purpose: str, status: str, elapsed_s: float) -> None:
        """The upstream was called; *status* is its status code or the code of our error.

        What was refused a call here was none: `ims_proxy_rejected_calls_total` counts it.
        """
        if status in _NOT_MADE:
            return
        called = self._called.get((purpose, status))
        if called is None:
            called = self._upstream_calls.labels(purpose, status), self._upstream_seconds.labels(purpose)
            self._called[purpose, status] = called
        calls, seconds = called
        calls.inc()
        seconds.observe(elapsed_s)

    def record_collapsed(self) -> None:
        """A request waited for a fetch that another had begun."""
        self._collapsed.inc()

    def record_store_error(self, operation: str) -> None:
        """The store did not do what it was asked in time."""
        self._store_errors.labels(operation).inc()

    def watch_store(self, *, circuit_open: Callable[[], bool], bus_up: Callable[[], bool]) -> None:
        """Show how the shared store is."""
        self._store_circuit_open.set_function(circuit_open)
        self._invalidation_bus_up.set_function(bus_up)

    def watch_event_loop(self, lag_s: Callable[[], float]) -> None:
        """Show how late the event loop is, *lag_s* at the most lately."""
        self._event_loop_lag.set_function(lag_s)

    def render_metrics(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, event, and the event's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return *record* as one line. Of an exception only the type is told: its text may quote a request."""
        line = {"at": round(record.created, 3), "level": record.levelname.lower(), "event": record.getMessage()}
        line |= getattr(record, "event_fields", {})
        if record.exc_info and record.exc_info[0]:
            line["error"] = record.exc_info[0].__name__
        return orjson.dumps(line, default=str).decode()


def log_event(name: str, *, level: int = logging.INFO, **fields: object) -> None:
    """Log the event *name* with its *fields*."""
    if logger.isEnabledFor(level):
        logger.log(level, name, extra={"event_fields": fields})


def _log_request(recorder: RequestRecorder, elapsed_s: float, request_id: str) -> None:
    log_event(
        "request_completed",
        method=recorder.method,
        route=recorder.route,
        status=recorder.status,
        cache_status=recorder.cache_status,
        elapsed_s=round(elapsed_s, 6),
        request_id=request_id,
    )


def configure_logging(level: str) -> None:
    """Send events to standard error as JSON lines; libraries speak only from warnings on."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logger.setLevel(level.upper())
