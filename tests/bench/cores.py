"""One worker beside two."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

from tests.bench import load
from tests.bench.hits import WHOLE
from tests.bench.load import Case
from tests.bench.section import Bench, Figure, Section, Taken, of_figures, table
from tests.bench.servers import BOTH_CORES, Server, proxy
from tests.support.redis import RedisServer

_CASE = Case("two workers beside one", "/v2/images?limit=1", WHOLE, connections=64, core=BOTH_CORES)


def measured(bench: Bench) -> Taken:
    """Return hits per second of one worker and of two, in turn, both free to run on either core."""
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer(bench.home("cores")))
        servers = [_workers(stack, bench, redis, workers) for workers in (1, 2)]
        one, two = load.measured(
            _CASE, servers, bench.upstream_port, rounds=bench.rounds, seconds=bench.seconds, say=bench.say
        )
    rows = [
        (
            each.server,
            f"{each.median('per_s'):,.0f}",
            f"{each.median('cpu_us'):.0f}",
            *(f"{each.median(of):.0%}" for of in ("server_cpu", "load_cpu")),
        )
        for each in (one, two)
    ]
    ratio = two.median("per_s") / one.median("per_s")
    had = two.median("server_cpu") / one.median("server_cpu")
    shown = table(("workers", "hits per second", "CPU µs each", "of a core, workers", "of a core, wrk"), rows)
    figures = [
        Figure("two workers beside one", ratio, "x", 1.7, least=True),
        Figure("cores that two workers had beside one's", had, "x"),
    ]
    return Taken([shown, *of_figures(figures).tables], figures)


def _workers(stack: ExitStack, bench: Bench, redis: RedisServer, count: int) -> Server:
    settings = {"STORE__URL": redis.url, "SERVER__WORKERS": str(count)}
    directory = bench.home(f"workers-{count}")
    server = stack.enter_context(proxy(bench.upstream_port, directory, settings=settings, core=BOTH_CORES))
    for _ in range(20 * count):
        load.ask_once(server, _CASE)  # each worker has it in memory now
    return replace(server, name=str(count))


SECTION = Section(
    "Two workers",
    measured,
    """\
One image, every request on the whole way, where a hit costs the server many times what it costs wrk: only so can two
cores show what two workers do, for wrk runs on the same two. What the workers and wrk take adds up to what there is, so
wrk is what keeps two workers from two whole cores: see their hits beside the cores that they had. The rest is that a
hit costs more where both cores are busy. All the requests are the same, which wrk sends for less than such as it has to
make. The workers share a Redis, and have the page in memory; the two servers take turns.""",
)
