"""The tables, for the terminal and for `docs/benchmarks.md`."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from tests.bench import load
from tests.bench.latency import Figure
from tests.bench.servers import NGINX, PROXY, VARNISH

# What the proxy's hits per second are to be, as a share of a rival's.
GOALS = {
    (load.CASES[0].name, "nginx"): 1.5,
    (load.CASES[1].name, "nginx"): 1.0,
    (load.CASES[1].name, "Varnish"): 1.5,
    (load.CASES[2].name, "nginx"): 1.5,
    (load.CASES[3].name, "nginx"): 0.5,
    (load.CASES[5].name, "nginx"): 0.5,
}
OURS = "ims-proxy"


def tables(hits: Sequence[load.Result], figures: Sequence[Figure]) -> str:
    """Return all that was measured."""
    return "\n\n".join(filter(None, (_hits_table(hits), _ratio_table(hits), _figure_table(figures))))


def _hits_table(hits: Sequence[load.Result]) -> str:
    rows = [
        (
            *(each.case.name, each.server, f"{each.median('per_s'):,.0f}"),
            *(f"{each.median(of):.2f}" for of in ("p50_ms", "p99_ms")),
            f"{each.median('cpu_us'):.1f}",
            *(f"{each.median(of):.0%}" for of in ("server_cpu", "load_cpu")),
        )
        for each in hits
    ]
    return _table(
        ("hits", "server", "per second", "p50 ms", "p99 ms", "CPU µs each", "server's core", "wrk's core"), rows
    )


def _ratio_table(hits: Sequence[load.Result]) -> str:
    rows = []
    for ours in (each for each in hits if each.server == OURS):
        for rival in (each for each in hits if each.case is ours.case and each.server != OURS):
            ratio = ours.median("per_s") / rival.median("per_s")
            goal = GOALS.get((ours.case.name, rival.server))
            said = "" if goal is None else "met" if ratio >= goal else "missed"
            rows.append((ours.case.name, rival.server, f"{ratio:.2f}", "" if goal is None else f">= {goal:.1f}", said))
    return _table(("ims-proxy beside", "rival", "ratio", "goal", ""), rows)


def _figure_table(figures: Sequence[Figure]) -> str:
    rows = []
    for each in figures:
        goal = "" if each.goal is None else f"{'>=' if each.least else '<='} {each.goal:g} {each.unit}"
        said = {None: "", True: "met", False: "missed"}[each.met]
        shown = f"{each.value:,.0f}" if abs(each.value) >= 1000 else f"{each.value:.2f}"
        rows.append((each.name, f"{shown} {each.unit}", goal, said))
    return _table(("measure", "value", "goal", ""), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def document(hits: Sequence[load.Result], figures: Sequence[Figure], *, rounds: int, seconds: int) -> str:
    """Return `docs/benchmarks.md`."""
    wrk = shlex.join(load.command("http://127.0.0.1:PORT", load.CASES[0], seconds=seconds)).split(" -s ")[0]
    wrk = wrk.replace(load.TOKEN, "TOKEN")
    return _DOCUMENT.format(
        tables=tables(hits, figures),
        machine=machine(),
        versions=", ".join(versions()),
        rounds=rounds,
        wrk=wrk,
        nginx=NGINX.format(user="", workers=1, upstream="UPSTREAM", port="PORT").rstrip(),
        varnish=VARNISH.format(upstream="UPSTREAM").rstrip(),
        proxy="\n".join(f"IMS_PROXY_{name}={value}" for name, value in PROXY.items()),
    )


def machine() -> str:
    """Return what the figures were taken on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    began, turn = time.perf_counter(), 0
    while turn < 10_000_000:
        turn += 1
    pace = f"Python counts to 10,000,000 in {time.perf_counter() - began:.2f} s"
    return f"{os.cpu_count()} cores of {model}, Linux {platform.release()}, Python {platform.python_version()}; {pace}"


def versions() -> list[str]:
    """Return what took part, with versions."""
    python = [f"{name} {version(name)}" for name in ("aiohttp", "uvloop", "redis", "hiredis", "orjson")]
    return [*python, *(said for words in _ASKED if (said := _first_line(words)))]


_ASKED = (("nginx", "-v"), ("varnishd", "-V"), ("wrk", "-v"), ("redis-server", "--version"))


def _first_line(words: Sequence[str]) -> str:
    path = os.environ.get("PATH", "") + ":/usr/sbin"
    try:
        run = subprocess.run(words, capture_output=True, text=True, check=False, env={"PATH": path}, timeout=10)
    except FileNotFoundError:
        return ""
    return (run.stdout + run.stderr).strip().splitlines()[0].split(" Copyright")[0].strip()


_DOCUMENT = """\
# Benchmarks

`make bench` installs wrk, nginx and Varnish if they are missing, takes all of this anew in about three minutes, and
writes this page. `make bench ARGS=--quick` is a first look that writes nothing.

{tables}

Server's core and wrk's core say how busy each was: where the server's is not full, something else was the limit (wrk,
or other programs on the same machine). "CPU µs each" is the processor time of the server for one hit, which is
steadier than the rate where a machine is shared.

## How

- Machine: {machine}.
- Versions: {versions}.
- Each server runs on one core, wrk on the other: {rounds} rounds of each case, the servers taking turns; medians.
- A round counts only if wrk saw no error and no status but 2xx, the answers before and after it said that they were
  hits, and the upstream was not asked once meanwhile.
- "Identical heads": every request is the same, byte for byte, as a batch client sends them. "Request ids differ" and
  "another field differs": each has an `X-Request-Id` or an `X-Trace` of its own, by which nothing is decided
  (`proxy/web/memo.py`). "The whole way": each has a `TE` too, which no memory of heads answers, so every request is
  parsed and goes through the gateway.
- A miss: one client asks for a listing nobody asked for before, directly and through the proxy by turns.
- Stored images: spans of 1,000 in process memory, by Python's own account of what was allocated, as a multiple of the
  bytes that the upstream sent.
- From Redis: `store.max_bytes = 0` leaves no memory before it; the bare client runs on the server's core, with as many
  tasks as wrk has connections.
- An image is about 1 KB of JSON; the token has 192 characters.

```
{wrk} -s tests/bench/wrk.lua 'http://127.0.0.1:PORT/v2/images?limit=1' -- -
```

Settings of the proxy, all others as they are by default (`python -m proxy serve`):

```
{proxy}
```

nginx:

```
{nginx}
```

Varnish (`-s malloc,256m -p http_gzip_support=off -p thread_pools=1 -p timeout_idle=3600`):

```
{varnish}
```

## What is in the way

- Identical heads: a comparison, a look-up and one write, a few microseconds in Python, beside what the event loop takes
  for a read and a write. nginx does the same in C, so the lead shrinks as the page grows and copying it counts.
- Heads that differ: their lines are told apart and those that count are digested, a few microseconds more.
- The whole way: aiohttp parses the head, makes a request and a task for it; then identity, query, key, chain of spans
  and page are worked out anew, in Python, from small objects. "Of a whole hit's time" above says where. cProfile makes
  calls dear, so these are shares, not times.
- From Redis with no memory before it: each hit is a pipeline of two commands through redis-py, a script in Redis, a tag
  over the span's bytes, its header parsed, and the page rendered anew, for `store.max_bytes = 0` keeps no rendered page
  either. A bare GET is one command.
- A miss: one more connection's worth of HTTP, the body parsed once for its ids and scanned once for the images' own
  bytes, then tagged and rendered.

## Not measured

TLS; HTTP/1.0 and HTTP/2; networks other than loopback; latency at a load below the maximum (wrk sends as fast as it is
answered); more than one worker; a Redis on another machine. One core of the two runs the load, so the upstream and the
kernel's share of loopback traffic compete with wrk, for every server alike.
"""
