"""What several workers say, as one answer."""

from __future__ import annotations

import orjson

from proxy.admin.aggregate import (
    EndedCounters,
    Families,
    WorkerResponse,
    merge_readiness,
    parse_metrics,
    render_metrics,
    sum_metrics,
)
from proxy.observability.logging import Telemetry


def ready(status: int = 200, **parts: str) -> WorkerResponse:
    """Return what a worker says of its readiness."""
    return WorkerResponse(status, {}, orjson.dumps({"ready": status == 200, "parts": parts}))


def said(telemetry: Telemetry) -> Families:
    return parse_metrics(telemetry.render_metrics().decode())


def counting(count: int) -> Telemetry:
    """Return what a process counted that answered *count* requests and holds 100 bytes."""
    made = Telemetry()
    for _ in range(count):
        made.record_request(method="GET", route="list", status=200, cache_status="hit", elapsed_s=0.002, request_id="r")
    made.stored_bytes.set(100)
    return made


def test_sums_never_go_back() -> None:
    """What a worker counted that died, or does not answer now, still counts; what it holds does not."""
    kept = EndedCounters(sum_metrics)

    def sums(*telemetry: Telemetry | None) -> tuple[float, float]:
        lines = render_metrics(kept.add_up([said(each) if each else None for each in telemetry])).decode().splitlines()
        samples = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        requests = samples['ims_proxy_requests_total{cache_status="hit",route="list",status="200"}']
        return float(requests), float(samples["ims_proxy_stored_bytes"])

    assert sums(counting(5), counting(3)) == (8, 200)
    assert sums(counting(6), None) == (9, 100)
    assert sums(counting(6), counting(4)) == (10, 200)
    assert sums(counting(1), counting(4)) == (11, 200)
    assert sums(counting(0), counting(7)) == (14, 200)
    assert sums(None, counting(7)) == (14, 100)


def test_sums() -> None:
    """Counters, histograms and bytes are added by their labels; a gauge that is no amount is the least of all."""
    one, two = Telemetry(), Telemetry()
    for each, count in ((one, 2), (two, 3)):
        for _ in range(count):
            each.record_request(
                method="GET", route="list", status=200, cache_status="hit", elapsed_s=0.002, request_id="r"
            )
        each.stored_bytes.set(100)
    two.record_request(method="GET", route="image", status=404, cache_status="bypass", elapsed_s=0.002, request_id="r")
    one.ready.set(1)
    lines = render_metrics([said(each) for each in (one, two)]).decode().splitlines()
    samples = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert float(samples['ims_proxy_requests_total{cache_status="hit",route="list",status="200"}']) == 5
    assert float(samples['ims_proxy_requests_total{cache_status="bypass",route="image",status="404"}']) == 1
    assert float(samples['ims_proxy_request_duration_seconds_bucket{cache_status="hit",le="0.0025",route="list"}']) == 5
    assert float(samples["ims_proxy_stored_bytes"]) == 200
    assert float(samples["ims_proxy_ready"]) == 0
    assert sum(line.startswith("# TYPE ims_proxy_requests_total ") for line in lines) == 1


def test_readiness() -> None:
    """All are ready when each is; one that does not answer is not."""
    assert merge_readiness([ready(store="ok"), ready(store="ok")]) == (
        True,
        {"worker 1: store": "ok", "worker 2: store": "ok"},
    )
    assert merge_readiness([ready(store="ok"), ready(503, listener="not ready, draining")])[0] is False
    assert merge_readiness([ready(store="ok"), None]) == (
        False,
        {"worker 1: store": "ok", "worker 2": "not ready, does not answer"},
    )
