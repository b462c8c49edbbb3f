"""What one request costs: a miss beside the upstream itself, a hit from Redis beside a bare GET, start and memory."""

from __future__ import annotations

import http.client
import itertools
import json
import re
import statistics
import subprocess
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from proxy.core.answer import Listed, listed
from proxy.core.identity import Partition
from proxy.core.keys import ListingKey
from proxy.core.listing import HEAD
from proxy.demo.seed import GOLD, images
from proxy.stores.memory import MemoryStore
from tests.bench import load
from tests.bench.servers import SERVER_CORE, Server, proxy, python, rss_mib
from tests.harness.processes import LOOPBACK
from tests.harness.redis import RedisServer

Say = Callable[[str], None]
_ID = re.compile(rb'"id":"[^"]*"')


@dataclass(frozen=True, slots=True)
class Figure:
    """One measure: what it is of, its value, and the goal where there is one; met where the value is not above it."""

    name: str
    value: float
    unit: str
    goal: float | None = None
    least: bool = False

    @property
    def met(self) -> bool | None:
        if self.goal is None:
            return None
        return self.value >= self.goal if self.least else self.value <= self.goal


def figures(upstream_port: int, directory: Path, *, quick: bool, only: str, say: Say) -> list[Figure]:
    """Return every measure whose name has *only* in it."""
    measures: dict[str, Callable[[], list[Figure]]] = {
        "miss": lambda: _misses(upstream_port, directory, quick=quick),
        "start and memory": lambda: _start(upstream_port, directory, times=3 if quick else 7),
        "redis": lambda: _redis(upstream_port, directory, seconds=1 if quick else 3),
        "growth": lambda: _growth(upstream_port, directory, most=1_000 if quick else 10_000),
        "memory of images": lambda: [_stored(10_000 if quick else 100_000)],
        "profile": lambda: _profile(upstream_port),
        "stream": lambda: _stream(upstream_port, directory, mib=256 if quick else 1024),
    }
    taken = []
    for name, measure in measures.items():
        if only in name:
            say(name)
            taken += measure()
    return taken


def _misses(upstream_port: int, directory: Path, *, quick: bool) -> list[Figure]:
    taken = []
    with proxy(upstream_port, directory) as server, _client(upstream_port) as direct, _client(server.port) as through:
        for count, goal_ms, times in ((25, 1.0, 400), (1000, 15.0, 60)):
            names = itertools.count()
            seconds: dict[str, list[float]] = {"direct": [], "through": []}
            for _ in range(times // 4 if quick else times):
                for way, connection in (("direct", direct), ("through", through)):
                    target = f"/v2/images?name=unheard-of-{next(names)}&limit={count}"
                    seconds[way].append(_timed(connection, target, hit=False if way == "through" else None))
            added_ms = 1000 * (statistics.median(seconds["through"]) - statistics.median(seconds["direct"]))
            taken.append(Figure(f"a miss of {count:,} images adds to the median", added_ms, "ms", goal_ms))
    return taken


def _start(upstream_port: int, directory: Path, *, times: int) -> list[Figure]:
    taken, rss = [], 0.0
    for _ in range(times):
        began = time.perf_counter()
        with proxy(upstream_port, directory) as server, _client(server.port) as connection:
            _timed(connection, "/v2/images?limit=1", hit=False)
            taken.append(time.perf_counter() - began)
            rss = rss_mib(server.program.pid)
    return [
        Figure("from start to the first answer", statistics.median(taken), "s", 0.6),
        Figure("memory after the first answer", rss, "MiB", 70),
    ]


def _redis(upstream_port: int, directory: Path, *, seconds: int) -> list[Figure]:
    """Hits with no memory before Redis (`store.max_bytes` 0), beside a client that only GETs the same bytes."""
    home = directory / "redis"
    home.mkdir()
    case = load.Case("25 images from Redis", "/v2/images?limit=25")
    with RedisServer(home) as redis:
        settings = {"STORE__URL": redis.url, "STORE__MAX_BYTES": "0", "STORE__TIMEOUT_MS": "2000"}
        with proxy(upstream_port, directory, settings=settings) as server:
            hits = load.measured(case, [server], upstream_port, rounds=3, seconds=seconds, say=lambda _: None)[0]
        bare = subprocess.run(
            ["taskset", "-c", str(SERVER_CORE), python(), "-m", "tests.bench.bare_redis", redis.url, str(seconds)],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
    bare_per_s = float(json.loads(bare.stdout))
    per_s = hits.median("per_s")
    return [
        Figure("hits from Redis, no memory before it, 25 images", per_s, "/s"),
        Figure("bare redis-py GETs of the same bytes", bare_per_s, "/s"),
        Figure("bare GETs for each hit from Redis", bare_per_s / per_s, "x", 2.0),
    ]


def _growth(upstream_port: int, directory: Path, *, most: int) -> list[Figure]:
    """Hits per second against how much is stored."""
    taken = []
    with proxy(upstream_port, directory) as server, _client(server.port) as connection:
        stored = 0
        for count in (10, 1_000, 10_000):
            if count > most:
                break
            for number in range(stored, count):
                _timed(connection, f"/v2/images?name=stored-{number}&limit=1", hit=None)
            stored = count
            case = load.Case("", "/v2/images?name=stored-0&limit=1", differing="X-Trace")
            taken.append(_hits(case, server, upstream_port, f"hits, another field differs, {count:,} listings stored"))
        for size in (25, 250, 1000):
            case = load.Case("", f"/v2/images?name=span-{size}&limit={size}", differing="X-Trace")
            taken.append(_hits(case, server, upstream_port, f"hits, another field differs, {size:,} images a page"))
    return taken


def _stored(count: int) -> Figure:
    """What *count* stored images take, beside the bytes that they came in."""
    key = ListingKey(Partition("token", "0" * 32), "", "/v2/images", "visibility=public")
    store = MemoryStore(1 << 30)
    rendered = [image.rendered for image in images(1000, owners=(GOLD,))]
    tracemalloc.start()
    received, after = 0, HEAD
    for first in range(0, count, 1000):
        ids = [f"{first + number:08x}-0000-4000-8000-000000000000" for number in range(1000)]
        rows = (_ID.sub(f'"id":"{image_id}"'.encode(), row, 1) for image_id, row in zip(ids, rendered, strict=True))
        body = b'{"images":[%b],"next":"/v2/images?marker=%b"}' % (b",".join(rows), ids[-1].encode())
        got = listed(body)
        assert isinstance(got, Listed)
        span = got.span(after=after, asked=1000, unlinked=False, fetched_at=0.0, lifetime_s=60.0)
        store.put_now(key, span, keep_s=60.0, now=0.0)
        received, after = received + len(body), ids[-1]
        del ids, body, got, span
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return Figure(f"memory of {count:,} stored images beside their bytes", taken / received, "x", 1.5)


def _profile(upstream_port: int) -> list[Figure]:
    """Where the time of a hit goes that is parsed and takes the whole way."""
    argv = [python(), "-m", "tests.bench.profile", f"http://{LOOPBACK}:{upstream_port}"]
    run = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=120)
    shares: dict[str, float] = json.loads(run.stdout)
    return [Figure(f"of a whole hit's time, in {where}", 100 * share, "%") for where, share in shares.items()]


def _hits(case: load.Case, server: Server, upstream_port: int, name: str) -> Figure:
    result = load.measured(case, [server], upstream_port, rounds=3, seconds=1, say=lambda _: None)[0]
    return Figure(name, result.median("per_s"), "/s")


def _stream(upstream_port: int, directory: Path, *, mib: int) -> list[Figure]:
    """One long body through the proxy, beside one through nginx."""
    from tests.bench.servers import nginx

    taken = []
    with proxy(upstream_port, directory) as ours:
        before = rss_mib(ours.program.pid)
        speeds = [_streamed(ours, mib) for _ in range(3)]
        grown = rss_mib(ours.program.pid) - before
    (directory / "stream").mkdir()
    with nginx(upstream_port, directory / "stream") as theirs:
        rival = [_streamed(theirs, mib) for _ in range(3)]
    ours_mib_s, rival_mib_s = statistics.median(speeds), statistics.median(rival)
    taken.append(Figure(f"a body of {mib:,} MiB through the proxy", ours_mib_s, "MiB/s"))
    taken.append(Figure(f"a body of {mib:,} MiB through nginx", rival_mib_s, "MiB/s"))
    taken.append(Figure("streaming beside nginx", ours_mib_s / rival_mib_s, "x", 0.5, least=True))
    taken.append(Figure("memory that streaming adds", grown, "MiB"))
    return taken


def _streamed(server: Server, mib: int) -> float:
    began = time.perf_counter()
    with _client(server.port) as connection:
        connection.request("GET", f"/v2/images/{mib}/file", headers={"X-Auth-Token": load.TOKEN})
        answer = connection.getresponse()
        size = 0
        buffer = bytearray(1 << 20)
        while read := answer.readinto(buffer):
            size += read
    assert size == mib << 20, f"{server.name}: {size} bytes of {mib} MiB"
    return mib / (time.perf_counter() - began)


@contextmanager
def _client(port: int) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=30)
    try:
        yield connection
    finally:
        connection.close()


def _timed(connection: http.client.HTTPConnection, target: str, *, hit: bool | None) -> float:
    """Return how long one request took, seconds; *hit* is what its answer must be, None for either."""
    began = time.perf_counter()
    connection.request("GET", target, headers={"X-Auth-Token": load.TOKEN})
    answer = connection.getresponse()
    answer.read()
    took_s = time.perf_counter() - began
    said = answer.getheader("Cache-Status") or ""
    assert answer.status == 200, f"{target}: {answer.status}"
    assert hit in (None, said.startswith("ims-proxy; hit")), f"{target}: {said}"
    return took_s
