"""`docs/benchmarks.md`: what every section measured, and how to take it again."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from tests.bench import callers, cores, fleet, growth, hits, latency, load, tail
from tests.bench.section import Section, Taken, table
from tests.bench.servers import NGINX, NO_SENDFILE, PROXY, SENDFILE, VARNISH

# In the order of the page. One more is one more file and its name here.
SECTIONS: tuple[Section, ...] = (
    hits.SECTION,
    tail.SECTION,
    callers.SECTION,
    cores.SECTION,
    growth.SECTION,
    fleet.SECTION,
    *latency.SECTIONS,
)


def text(section: Section, taken: Taken) -> str:
    """Return *section* of the page."""
    return "\n\n".join((f"## {section.title}", *taken.tables, section.notes))


def goals(everything: Sequence[tuple[Section, Taken]]) -> str:
    """Return a table of the figures that there are goals for."""
    figures = [figure for _, taken in everything for figure in taken.figures if figure.goal is not None]
    return table(("", "value", "goal", ""), [(each.name, each.shown, each.wanted, each.said) for each in figures])


def document(everything: Sequence[tuple[Section, Taken]], *, took_s: float) -> str:
    """Return the page."""
    wrk = shlex.join(load.command("http://127.0.0.1:PORT", hits.CASES[0], seconds=1)).split(" -s ")[0]
    return _DOCUMENT.format(
        goals=goals(everything),
        sections="\n\n".join(text(section, taken) for section, taken in everything),
        minutes=max(1, round(took_s / 60)),
        machine=machine(),
        versions=", ".join(versions()),
        wrk=wrk.replace(load.TOKEN, "TOKEN"),
        nginx=NGINX.format(user="", sending=SENDFILE, upstream="UPSTREAM", port="PORT").rstrip(),
        no_sendfile=NO_SENDFILE,
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
    whose = "the system's" if sys.base_prefix == "/usr" else "not the system's"
    python = f"Python {platform.python_version()} ({whose})"
    return f"{os.cpu_count()} cores of {model}, Linux {platform.release()}, {python}; {pace}"


def versions() -> list[str]:
    """Return what took part, with versions."""
    python = [f"{name} {version(name)}" for name in ("aiohttp", "uvloop", "redis", "hiredis", "msgspec", "orjson")]
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

`make bench` installs wrk, nginx and Varnish if they are missing, takes all of this anew in about {minutes} minutes, and
writes this page. `make bench ARGS=--quick` is a first look that writes nothing.

{goals}

{sections}

## Machine, versions, configurations

- Machine: {machine}.
- Versions: {versions}.
- The token has 192 characters.

```
{wrk} -s tests/bench/wrk.lua 'http://127.0.0.1:PORT/v2/images?limit=1' -- …
```

Settings of the proxy, all others as they are by default (`python -m proxy serve`), unless a section says otherwise:

```
{proxy}
```

nginx, and "no sendfile" with `{no_sendfile}` in its place:

```
{nginx}
```

Varnish (`-s malloc,256m -p http_gzip_support=off -p thread_pools=1 -p timeout_idle=3600`):

```
{varnish}
```

## What is in the way of the goals

- Hits beside nginx: the smaller part of a hit in the memory of heads is Python, the rest is the event loop's and the
  kernel's, which nginx pays for too. Where other programs take caches and memory from it, Python loses more than nginx
  does; "by least CPU" is the ratio of the rounds that were disturbed least.
- A miss: what aiohttp adds by itself, and then many small steps, spread thin. To take fewer would be to decide less:
  whose list it is, whether somebody fetches it already, whether the budget allows the call, what is in the body, how
  long it may be kept. It is the first to grow where the machine is slow or disturbed.
- Two workers: wrk, which runs on the same two cores.
- The start: Python loads the modules of the proxy and of its libraries.

## How far to trust it

Servers that take turns are disturbed alike by whoever shares the machine, but not by as much: what copies long pages,
or takes both cores, moves most, and what a miss adds or a start takes is no ratio at all. `python -m tests.bench
--section 'Misses'` takes one section again, and writes nothing; where that gives another figure each time, none of
them is to be trusted by more than they differ.

An interpreter that was built without profile-guided optimisation, as pyenv builds it unless told otherwise, is slower
than the one of a distribution or of the official images. `make bench VENV=.venv-bench PYTHON=/usr/bin/python3` takes
the system's.

## Not measured

TLS; HTTP/1.0 and HTTP/2; networks other than loopback; a Redis on another machine; more than two workers. One core of
the two runs the load, so the upstream and the kernel's share of loopback traffic compete with wrk, for every server
alike.
"""
