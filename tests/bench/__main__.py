"""`python -m tests.bench`; `--quick` for a first look, `--section` for one of them."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench import load, report, servers
from tests.bench.section import Bench, Section, Taken

_REPO = Path(__file__).parents[2]


def main() -> None:
    """Measure, print the tables, and write them down."""
    words = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    words.add_argument("--quick", action="store_true", help="short rounds, for a first look; writes nothing down")
    words.add_argument("--section", default="", help="only those with this in their title; writes nothing down")
    words.add_argument("--rounds", type=int, help="rounds of each case of hits [default: 9, quick 1]")
    words.add_argument("--seconds", type=int, help="seconds of a round [default: 1]")
    given = words.parse_args()
    subprocess.run([_REPO / "tests" / "provision", "bench"], check=True)
    os.sched_setaffinity(0, {int(servers.LOAD_CORE)})  # what is started from here stays there, unless told otherwise
    began = time.monotonic()
    taken: list[tuple[Section, Taken]] = []
    with tempfile.TemporaryDirectory(prefix="ims-proxy-bench-") as name, servers.upstream(Path(name)) as port:
        rounds = given.rounds or (1 if given.quick else 9)
        bench = Bench(port, Path(name), rounds=rounds, seconds=given.seconds or 1, quick=given.quick, say=_say)
        for section in report.SECTIONS:
            if given.section.lower() in section.title.lower():
                _say(section.title)
                taken.append((section, section.measure(bench)))
                _say("")
                print(f"{report.text(*taken[-1])}\n", flush=True)
    print(report.goals(taken))
    if not given.quick and not given.section:
        written = _REPO / "docs" / "benchmarks.md"
        written.write_text(report.document(taken, took_s=time.monotonic() - began))
        print(f"\nwritten: {written.relative_to(_REPO)}")


def _say(line: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
    elif line:
        print(line, file=sys.stderr, flush=True)


try:
    main()
except load.NotMeasuredError as error:
    sys.exit(f"not measured: {error}")
