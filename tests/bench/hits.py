"""Hits per second beside nginx and Varnish."""

from __future__ import annotations

from collections.abc import Sequence

from tests.bench import load
from tests.bench.load import OURS, Case, Result
from tests.bench.section import Bench, Figure, Section, Taken, table
from tests.bench.servers import all_of_them

WHOLE = {"TE": "trailers"}  # what frames a connection is for the parser alone: no memory of heads answers it
CASES = (
    Case("1 image, identical heads", "/v2/images?limit=1"),
    Case("25 images, identical heads", "/v2/images?limit=25"),
    Case("25 images, gzip, identical heads", "/v2/images?limit=25&tag=gzip", {"Accept-Encoding": "gzip"}),
    Case("1 image, request ids differ", "/v2/images?limit=1", differing="X-Request-Id"),
    Case("25 images, request ids differ", "/v2/images?limit=25", differing="X-Request-Id"),
    Case("1 image, another field differs", "/v2/images?limit=1", differing="X-Trace"),
    Case("25 images, another field differs", "/v2/images?limit=25", differing="X-Trace"),
    Case("25 images, the whole way", "/v2/images?limit=25", WHOLE, differing="X-Trace"),
)
# What the proxy's hits per second are to be, as a share of a rival's.
GOALS = {
    (CASES[0].name, "nginx"): 1.5,
    (CASES[1].name, "nginx"): 1.0,
    (CASES[1].name, "Varnish"): 1.5,
    (CASES[2].name, "nginx"): 1.5,
    (CASES[3].name, "nginx"): 0.5,
    (CASES[5].name, "nginx"): 0.5,
}


def measured(bench: Bench) -> Taken:
    """Return the hits of every server in every case."""
    results: list[Result] = []
    with all_of_them(bench.upstream_port, bench.home("hits")) as compared:
        for case in CASES:
            results += load.measured(
                case, compared, bench.upstream_port, rounds=bench.rounds, seconds=bench.seconds, say=bench.say
            )
    return Taken([_table(results), *_ratios(results)], _figures(results))


def _table(results: Sequence[Result]) -> str:
    rows = [
        (
            *(each.case.name, each.server, f"{each.median('per_s'):,.0f}"),
            *(f"{each.median(of):.2f}" for of in ("p50_ms", "p99_ms")),
            f"{each.median('cpu_us'):.1f}",
            f"{each.least_cpu_us:.1f}",
            *(f"{each.median(of):.0%}" for of in ("server_cpu", "load_cpu")),
        )
        for each in results
    ]
    return table(
        ("hits", "server", "per second", "p50 ms", "p99 ms", "CPU µs each", "least", "server's core", "wrk's core"),
        rows,
    )


def _ratios(results: Sequence[Result]) -> list[str]:
    rows = [
        (
            *(figure.name, f"{figure.value:.2f}", figure.wanted.removesuffix(" x"), figure.said),
            f"{rival.least_cpu_us / ours.least_cpu_us:.2f}",
        )
        for (ours, rival), figure in zip(_pairs(results), _figures(results), strict=True)
    ]
    return [table(("ims-proxy beside", "ratio", "goal", "", "by least CPU"), rows)]


def _figures(results: Sequence[Result]) -> list[Figure]:
    return [
        Figure(
            f"{ours.case.name}, beside {rival.server}",
            ours.median("per_s") / rival.median("per_s"),
            "x",
            GOALS.get((ours.case.name, rival.server)),
            least=True,
        )
        for ours, rival in _pairs(results)
    ]


def _pairs(results: Sequence[Result]) -> list[tuple[Result, Result]]:
    """Return ours with each rival, case by case."""
    ours = {each.case.name: each for each in results if each.server == OURS}
    return [(ours[each.case.name], each) for each in results if each.server != OURS]


SECTION = Section(
    "Hits",
    measured,
    """\
Each server runs on one core, wrk on the other: several rounds of each case, the servers taking turns; medians. A
round counts only if wrk saw no error and no status but 2xx, the answers before and after it said that they were hits,
and the upstream was not asked once meanwhile.

"Identical heads": every request is the same, byte for byte, as a batch client sends them. "Request ids differ" and
"another field differs": each has an `X-Request-Id` or an `X-Trace` of its own, by which nothing is decided
(`proxy/web/memo.py`). "The whole way": each has a `TE` too, which no memory of heads answers, so every request is
parsed and goes through the gateway.

nginx runs twice, as the goals name it and as it sends short answers faster; see its configuration below.

Server's core and wrk's core say how busy each was: where the server's is not full, something else was the limit (wrk,
or other programs on the same machine). "CPU µs each" is the processor time of the server for one hit, in the median and
in the round where it took least. On a machine that is shared rounds differ much; the least is nearest to what a
hit costs where nobody disturbs it.

- Identical heads cost a comparison, a look-up and one write, a few microseconds in Python, beside what the event loop
  takes for a read and a write. nginx does the same in C, so the lead shrinks as the page grows and copying it counts.
- Where heads differ, their lines are told apart and those that count are digested, a few microseconds more.
- On the whole way aiohttp parses the head, makes a request and a task for it; then identity, chain of spans and page
  are worked out anew, in Python, from small objects; what the target names, to this partition, is remembered; see
  "Where a hit's time goes".""",
)
