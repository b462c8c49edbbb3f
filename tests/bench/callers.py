"""Many concurrent callers before cold caches: process memory, Redis, two replicas on one Redis, and nginx."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.bench.load import OURS
from tests.bench.section import Bench, Figure, Section, Taken, of_figures, table
from tests.bench.servers import BOTH_CORES, SERVER_CORE, nginx, proxy
from tests.load.listings import LIMITS, LISTINGS
from tests.load.rig import count_calls, forget_calls, generate, run_upstream
from tests.support.redis import RedisServer

CALLERS: Final = (16, 64, 256, 1_000)
MEMORY, REDIS, REPLICAS, NGINX = OURS, f"{OURS}, Redis", f"{OURS}, Redis, 2 replicas", "nginx"
SERVERS: Final = (MEMORY, REDIS, REPLICAS, NGINX)
_SECONDS: Final = 3  # for each second of a round
_MOST_ROUNDS: Final = 3  # a cell takes some seconds, and there are sixteen of them
_MOST_TIMES_P99: Final = 2.0


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of the load came to."""

    load: dict[str, Any]
    upstream_calls: int

    @property
    def per_s(self) -> float:
        """Answers per second."""
        return float(self.load["answers"] / self.load["elapsed_s"])


def measure(bench: Bench) -> Taken:
    """Return what the load comes to through each server, begun anew for each run; they take turns."""
    rounds = min(bench.rounds, _MOST_ROUNDS)
    counts = CALLERS[:3] if bench.quick else CALLERS
    home = bench.home("callers")
    runs: defaultdict[tuple[int, str], list[Run]] = defaultdict(list)
    with run_upstream(home) as port:
        for number in range(rounds):
            for callers in counts:
                for name in SERVERS:
                    bench.say(f"concurrent callers: round {number + 1} of {rounds}, {callers} callers, {name}")
                    own = bench.home(f"callers-{number}-{callers}-{SERVERS.index(name)}")
                    runs[callers, name].append(_run(name, port, own, callers, seconds=_SECONDS * bench.seconds))
    rows = [_row(callers, name, taken) for (callers, name), taken in runs.items()]
    figures = [
        Figure(
            f"p99 of {callers:,} callers, Redis beside memory",
            _median(runs[callers, REDIS], "p99_ms") / _median(runs[callers, MEMORY], "p99_ms"),
            "x",
            _MOST_TIMES_P99,
        )
        for callers in counts
    ]
    ours = [run for (_, name), taken in runs.items() if name != NGINX for run in taken]
    most = max(run.upstream_calls / run.load["listings_asked"] for run in ours)
    figures.append(Figure("concurrent callers: upstream calls for a listing", most, "calls", 1))
    return Taken([table(_HEAD, rows), *of_figures(figures).tables], figures)


_HEAD: Final = (
    *("callers", "through", "answers per second", "p50 ms", "p99 ms", "upstream calls", "failed"),
    "of a core, the callers",
)


def _row(callers: int, name: str, runs: Sequence[Run]) -> tuple[str, ...]:
    load_cpu = statistics.median(run.load["cpu_s"] / run.load["elapsed_s"] for run in runs)
    return (
        *(f"{callers:,}", name, f"{statistics.median(run.per_s for run in runs):,.0f}"),
        *(f"{_median(runs, of):,.0f}" for of in ("p50_ms", "p99_ms")),
        *(f"{max(run.upstream_calls for run in runs):,}", str(sum(run.load["failed"] for run in runs))),
        f"{load_cpu:.0%}",
    )


def _median(runs: Sequence[Run], name: str) -> float:
    return float(statistics.median(run.load[name] for run in runs))


def _run(name: str, upstream_port: int, home: Path, callers: int, *, seconds: int) -> Run:
    forget_calls(upstream_port)
    with _start_servers(name, upstream_port, home) as urls:
        load = generate(urls, callers, directory=home, seconds=seconds)
    return Run(load, sum(count_calls(upstream_port).values()))


@contextmanager
def _start_servers(name: str, upstream_port: int, home: Path) -> Iterator[list[str]]:
    """Run what is called *name*, its cache empty, and give where it is."""
    with ExitStack() as stack:
        if name == NGINX:
            yield [stack.enter_context(nginx(upstream_port, home)).url]
            return
        settings = {} if name == MEMORY else {"STORE__URL": stack.enter_context(RedisServer(home)).url}
        urls = []
        for number in range(2 if name == REPLICAS else 1):
            own = home / f"proxy-{number}"
            own.mkdir()
            core = BOTH_CORES if name == REPLICAS else SERVER_CORE
            urls.append(stack.enter_context(proxy(upstream_port, own, settings=settings, core=core)).url)
        yield urls


SECTION = Section(
    "Concurrent callers",
    measure,
    f"""\
{LISTINGS} listings of 25 images, asked for at random, each with one of {len(LIMITS)} limits, by callers with keep-alive
connections and one token, before caches that are empty. The upstream takes 20 to 50 ms for a list. Every head is
another one and makes the proxy go the whole way (`TE: trailers`). Each answer is compared with what its listing holds:
"failed" counts those of all rounds that were wrong, no 200, or broke off. Rates and latencies are medians of the
rounds, upstream calls the most of any round.

nginx is configured as below, with `proxy_cache_lock on`. It caches by URI, so each limit is a page of its own there:
{LISTINGS * len(LIMITS)} calls are its optimum, {LISTINGS} are the proxy's, whatever its store and however many replicas
share it. The callers, the upstream and Redis share a core, which is what bounds nginx; a server has the other to
itself, and two replicas may use both.

`python -m tests.load --callers 256 --store redis` takes one of these by itself.""",
)
