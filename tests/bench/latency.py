"""What one request costs: a miss beside the upstream itself, a hit from Redis beside a bare GET, start and memory."""

from __future__ import annotations

import http.client
import json
import re
import statistics
import subprocess
import time
import tracemalloc
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from proxy import __file__ as package
from proxy.core.cache_key import CacheKey
from proxy.core.partition import Partition
from proxy.core.span import LIST_START
from proxy.demo.seed import GOLD_PROJECT, generate_images
from proxy.listing.response_parser import ParsedList, parse_list
from proxy.storage.memory import MemoryStore
from tests.bench import load
from tests.bench.load import OURS
from tests.bench.section import Bench, Figure, Section, Taken, of_figures, table
from tests.bench.servers import SERVER_CORE, Server, bare_proxy, nginx, proxy, python, rss_mib
from tests.support.processes import LOOPBACK
from tests.support.redis import RedisServer

_LISTINGS = 500
_ID = re.compile(rb'"id":"[^"]*"')


def misses(bench: Bench) -> Taken:
    """Return what a miss adds to the upstream's own time, beside what nginx adds, and aiohttp alone."""
    home, rows, figures = bench.home("misses"), [], []
    with ExitStack() as stack:
        servers = [stack.enter_context(run(bench.upstream_port, home)) for run in (proxy, nginx, bare_proxy)]
        ways = {server.name: stack.enter_context(_client(server.port)) for server in servers}
        direct = stack.enter_context(_client(bench.upstream_port))
        for count, goal_ms, times in ((25, 1.0, 400), (1000, 15.0, 60)):
            added = _added_ms(direct, ways, count=count, times=times // 4 if bench.quick else times)
            rows += [(f"{count:,} images", name, f"{ms:.2f}") for name, ms in added.items()]
            figures.append(Figure(f"a miss of {count:,} images adds to the median", added[OURS], "ms", goal_ms))
    return Taken([table(("a miss", "through", "adds ms"), rows), *of_figures(figures).tables], figures)


def _added_ms(
    direct: http.client.HTTPConnection, ways: Mapping[str, http.client.HTTPConnection], *, count: int, times: int
) -> dict[str, float]:
    """Return what each of the *ways* adds to the median of a *direct* request for a list that nobody asked for."""
    connections = {"": direct, **ways}
    seconds: dict[str, list[float]] = {name: [] for name in connections}
    for number in range(times):
        for name, connection in connections.items():
            target = f"/v2/images?name=unheard-of-{number}&limit={count}"
            seconds[name].append(_timed(connection, target, hit=False if name == OURS else None))
    medians = {name: 1000 * statistics.median(taken) for name, taken in seconds.items()}
    return {name: medians[name] - medians[""] for name in ways}


def start(bench: Bench) -> Taken:
    """Return how long a start takes, and how much memory is taken then; modules are compiled before, as by pip."""
    subprocess.run([python(), "-m", "compileall", "-q", Path(package).parent], check=True, timeout=60)
    taken, rss, home = [], 0.0, bench.home("start")
    for _ in range(3 if bench.quick else 7):
        began = time.perf_counter()
        with proxy(bench.upstream_port, home) as server, _client(server.port) as connection:
            _timed(connection, "/v2/images?limit=1", hit=False)
            taken.append(time.perf_counter() - began)
            rss = rss_mib(server.program.pid)
    return of_figures(
        [
            Figure("from start to the first answer", statistics.median(taken), "s", 0.6),
            Figure("memory after the first answer", rss, "MiB", 70),
        ]
    )


def from_redis(bench: Bench) -> Taken:
    """Return hits with no memory before Redis (`store.max_bytes` 0), beside a client that only GETs the same bytes."""
    home, seconds = bench.home("redis"), 1 if bench.quick else 3
    same = load.Case("25 images from Redis", "/v2/images?limit=25")
    cases = {
        "one listing": same,
        f"{_LISTINGS} listings in turn": replace(same, many=_LISTINGS),
    }
    settings = {"STORE__MAX_BYTES": "0"}
    ours: dict[str, list[float]] = {name: [] for name in cases}
    bare: list[float] = []
    port = bench.upstream_port
    with RedisServer(home) as redis, proxy(port, home, settings={**settings, "STORE__URL": redis.url}) as server:
        load.filled(server, cases[f"{_LISTINGS} listings in turn"])
        for _ in range(3):
            for name, case in cases.items():
                hits = load.measured(case, [server], port, rounds=1, seconds=seconds, say=bench.say)[0]
                ours[name].append(hits.median("per_s"))
            bare.append(_bare(redis, seconds))
    bare_per_s = statistics.median(bare)
    per_s = {name: statistics.median(rates) for name, rates in ours.items()}
    times = {name: bare_per_s / rate for name, rate in per_s.items()}
    shown = [(name, f"{per_s[name]:,.0f}", f"{times[name]:.2f}") for name in cases]
    shown.append(("bare redis-py GETs of the same bytes", f"{bare_per_s:,.0f}", "1.00"))
    taken = of_figures([Figure("bare GETs for each hit from Redis", times["one listing"], "x", 5.0)])
    return Taken([table(("25 images", "a second", "bare GETs for each"), shown), *taken.tables], taken.figures)


def _bare(redis: RedisServer, seconds: int) -> float:
    words = ["taskset", "-c", SERVER_CORE, python(), "-m", "tests.bench.bare_redis", redis.url, str(seconds)]
    run = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    return float(json.loads(run.stdout))


def stored(bench: Bench) -> Taken:
    """Return what many stored images take, beside the bytes that they came in."""
    count = 10_000 if bench.quick else 100_000
    key = CacheKey(Partition("token", "0" * 32), "", "/v2/images", "visibility=public")
    store = MemoryStore(1 << 30)
    rendered = [image.json_bytes for image in generate_images(1000, owners=(GOLD_PROJECT,))]
    tracemalloc.start()
    received, after = 0, LIST_START
    for first in range(0, count, 1000):
        ids = [f"{first + number:08x}-0000-4000-8000-000000000000" for number in range(1000)]
        rows = (_ID.sub(f'"id":"{image_id}"'.encode(), row, 1) for image_id, row in zip(ids, rendered, strict=True))
        body = b'{"images":[%b],"next":"/v2/images?marker=%b"}' % (b",".join(rows), ids[-1].encode())
        got = parse_list(body)
        assert isinstance(got, ParsedList)
        span = got.to_span(marker=after, limit=1000, without_next=False, fetched_at=0.0, lifetime_s=60.0)
        store.put_now(key, span, keep_s=60.0, now=0.0)
        received, after = received + len(body), ids[-1]
        del ids, body, got, span
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return of_figures([Figure(f"memory of {count:,} stored images beside their bytes", taken / received, "x", 1.5)])


def profile(bench: Bench) -> Taken:
    """Return where the time of a hit goes that is parsed and takes the whole way."""
    argv = [python(), "-m", "tests.bench.profile", f"http://{LOOPBACK}:{bench.upstream_port}"]
    run = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=120)
    shares: dict[str, float] = json.loads(run.stdout)
    return Taken([table(("in", "share"), [(where, f"{share:.0%}") for where, share in shares.items()])])


def stream(bench: Bench) -> Taken:
    """Return how fast one long body goes through the proxy, beside one through nginx."""
    mib, home = 256 if bench.quick else 1024, bench.home("stream")
    speeds: dict[str, list[float]] = {"ours": [], "nginx": []}
    with proxy(bench.upstream_port, home) as ours, nginx(bench.upstream_port, home) as theirs:
        _streamed(ours, 1)
        before = rss_mib(ours.program.pid)
        for _ in range(3):
            speeds["ours"].append(_streamed(ours, mib))
            speeds["nginx"].append(_streamed(theirs, mib))
        grown = rss_mib(ours.program.pid) - before
    ours_mib_s, nginx_mib_s = (statistics.median(each) for each in speeds.values())
    return of_figures(
        [
            Figure(f"a body of {mib:,} MiB through the proxy", ours_mib_s, "MiB/s"),
            Figure(f"a body of {mib:,} MiB through nginx", nginx_mib_s, "MiB/s"),
            Figure("streaming beside nginx", ours_mib_s / nginx_mib_s, "x", 0.5, least=True),
            Figure("memory that streaming adds", grown, "MiB"),
        ]
    )


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


SECTIONS = (
    Section(
        "Misses",
        misses,
        """\
One client asks for a listing nobody asked for before, directly and through each by turns. "aiohttp" is its server
before its client and nothing else (`tests/bench/bare_proxy.py`): what any proxy made with it adds. What the proxy adds
to that are its decisions, the budget, and the body: checked to its last byte, read for ids and the little else that is
looked at, cut into images, copied, and tagged. A miss of 25 images is many calls of small functions, spread thin over
aiohttp and the proxy. Of one of 1,000 images the parser takes most, then copying and the tag's SHA-256.""",
    ),
    Section(
        "Hits from Redis",
        from_redis,
        """\
`store.max_bytes = 0` leaves no memory before Redis, for spans and for rendered pages: each hit asks Redis for the spans
of its page, and for the generations they depend on; those are checked against their digests, and the page is made from
them. What is remembered (4 MiB at most) is the head that a page was given under, and those digests
(`proxy/gateway/again.py`). Who asks the same while others wait to be sent shares their question, so one listing that
all ask for costs less than several hundred do in turn. On the whole way each hit is parsed and decided about anew. The
bare client GETs one value, runs on the server's core, with as many tasks as wrk has connections; all take turns.""",
    ),
    Section(
        "Start and memory",
        start,
        """\
A process that has answered one list. Its modules were compiled before, as they are where pip has installed them. It
takes its time for loading them: the proxy's own, aiohttp's and pydantic's above all
(`python -X importtime -c 'import proxy.runtime.app'`).""",
    ),
    Section(
        "Memory of what is stored",
        stored,
        """\
Spans of 1,000 in process memory, by Python's own account of what was allocated, as a multiple of the bytes that the
upstream sent. An image is about 1 KB of JSON.""",
    ),
    Section(
        "Where a hit's time goes",
        profile,
        "On the whole way, by cProfile, which makes calls dear: the shares say where to look, not how long it takes.",
    ),
    Section("Streaming", stream, "An image's data, which nobody stores; the two take turns."),
)
