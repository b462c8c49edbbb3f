"""One worker beside two."""

from __future__ import annotations

from tests.bench import load
from tests.bench.hits import WHOLE
from tests.bench.load import Case
from tests.bench.section import Bench, Figure, Section, Taken, table
from tests.bench.servers import BOTH_CORES, proxy
from tests.harness.redis import RedisServer

_CASE = Case("", "/v2/images?limit=1", WHOLE, differing="X-Trace", connections=64, core=BOTH_CORES)


def measured(bench: Bench) -> Taken:
    """Return hits per second of one worker and of two, both free to run on either core."""
    home = bench.home("cores")
    rates, rows = [], []
    with RedisServer(home) as redis:
        for workers in (1, 2):
            settings = {"STORE__URL": redis.url, "SERVER__WORKERS": str(workers)}
            with proxy(bench.upstream_port, home, settings=settings, core=BOTH_CORES) as server:
                for _ in range(20 * workers):
                    load.ask_once(server, _CASE)  # each worker has it in memory now
                result = load.measured(_CASE, [server], bench.upstream_port, rounds=3, seconds=2, say=bench.say)[0]
            rates.append(result.median("per_s"))
            busy = (f"{result.median(of):.0%}" for of in ("server_cpu", "load_cpu"))
            rows.append((str(workers), f"{rates[-1]:,.0f}", f"{result.median('cpu_us'):.0f}", *busy))
    return Taken(
        [table(("workers", "hits per second", "CPU µs each", "of a core, workers", "of a core, wrk"), rows)],
        [Figure("two workers beside one", rates[1] / rates[0], "x", 1.7, least=True)],
    )


SECTION = Section(
    "Two workers",
    measured,
    """\
One image, every request on the whole way, where a hit costs the server many times what it costs wrk: only so can two
cores show what two workers do, for wrk runs on the same two, and takes its time to read longer pages. How much of a
core it takes stands beside; what the workers take and what wrk takes add up to what there is. The workers share a
Redis, and have the page in memory.""",
)
