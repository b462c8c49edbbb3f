"""Hits per second against how much is stored, and how long a span is."""

from __future__ import annotations

from dataclasses import replace

from tests.bench import load
from tests.bench.load import Case
from tests.bench.section import Bench, Section, Taken, table
from tests.bench.servers import proxy

_COUNTS = (10, 1_000, 10_000, 100_000)
_PAGES = (25, 250, 1_000)
_STORE_BYTES = 1 << 30


def measured(bench: Bench) -> Taken:
    """Return the rates: of listings asked for in turn, and of pages that are asked for again and again."""
    home = bench.home("growth")
    counts = [count for count in _COUNTS if not bench.quick or count <= 1_000]
    with proxy(bench.upstream_port, home, settings={"STORE__MAX_BYTES": str(_STORE_BYTES)}) as server:
        rows = []
        for count in counts:
            case = Case("", "/v2/images?limit=1", many=count, connections=64)
            bench.say(f"storing {count:,} listings")
            load.filled(server, case)
            result = load.measured(case, [server], bench.upstream_port, rounds=3, seconds=1, say=bench.say)[0]
            rows.append((f"{count:,}", f"{result.median('per_s'):,.0f}", f"{result.median('cpu_us'):.0f}"))
        pages = []
        for size in _PAGES:
            case = Case("", f"/v2/images?name=span-{size}&limit={size}", differing="X-Trace")
            result = load.measured(case, [server], bench.upstream_port, rounds=3, seconds=1, say=bench.say)[0]
            whole = replace(case, fields={"TE": "trailers"})
            slow = load.measured(whole, [server], bench.upstream_port, rounds=3, seconds=1, say=bench.say)[0]
            pages.append((f"{size:,}", *(f"{each.median('per_s'):,.0f}" for each in (result, slow))))
    return Taken(
        [
            table(("listings stored", "hits per second, all of them in turn", "CPU µs each"), rows),
            table(("images a page", "hits per second", "on the whole way"), pages),
        ]
    )


SECTION = Section(
    "How cost grows",
    measured,
    """\
Listings of one image each, every one asked for in turn, so that what was asked for lately does not help more than the
memory of heads can hold: an eighth of `store.max_bytes`, which is 1 GiB here. While that holds them all, a hit costs
the same; beyond, those that it does not hold go the whole way, whose cost does not depend on how many there are: a
listing is found by its digest. Each was asked for twice before it counts, as the first hit is remembered, not the miss.
Pages are asked for with another `X-Trace` each
time; what grows with a page is the copying of its bytes, by the proxy and by the kernel.""",
)
