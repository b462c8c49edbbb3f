"""How long the slowest of a hundred hits takes at half of the load that can be carried, beside nginx."""

from __future__ import annotations

from dataclasses import replace

from tests.bench import load
from tests.bench.load import OURS, Case
from tests.bench.section import Bench, Figure, Section, Taken, table
from tests.bench.servers import nginx, proxy

_CASE = Case("25 images, another field differs", "/v2/images?limit=25", differing="X-Trace")
_CONNECTIONS = 192
_MOST_TIMES = 2.0


def measured(bench: Bench) -> Taken:
    """Return the 99th percentile of both at the same rate: half of what the slower of them can do."""
    home = bench.home("tail")
    seconds = 1 if bench.quick else 3
    rows = []
    with proxy(bench.upstream_port, home) as ours, nginx(bench.upstream_port, home) as theirs:
        servers = (ours, theirs)
        most = load.measured(_CASE, servers, bench.upstream_port, rounds=2, seconds=1, say=bench.say)
        per_s = min(each.median("per_s") for each in most) / 2
        paced = replace(_CASE, connections=_CONNECTIONS, pause_ms=1000 * _CONNECTIONS / per_s)
        at_half = load.measured(paced, servers, bench.upstream_port, rounds=3, seconds=seconds, say=bench.say)
    for full, half in zip(most, at_half, strict=True):
        shown = (f"{full.median('per_s'):,.0f}", f"{half.median('per_s'):,.0f}")
        rows.append((half.server, *shown, *(f"{half.median(of):.2f}" for of in ("p50_ms", "p99_ms"))))
    p99_ms = {each.server: each.median("p99_ms") for each in at_half}
    ratio = p99_ms[OURS] / p99_ms["nginx"]
    return Taken(
        [table(("server", "most per second", "paced to", "p50 ms", "p99 ms"), rows)],
        [Figure("p99 at half of the load, beside nginx", ratio, "x", _MOST_TIMES)],
    )


SECTION = Section(
    "Tail at half of the load",
    measured,
    f"""\
25 images, each head with another `X-Trace`. Both servers are asked at the same rate: half of the most that the slower
of them carried just before. wrk has no pace of its own; here each of its {_CONNECTIONS} connections pauses before a
request for a time drawn at random (exponentially, so that requests bunch as those of independent clients do), in
whole milliseconds, of a mean that makes up the rate. Its time counts from the sending of a request.""",
)
