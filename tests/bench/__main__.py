"""`python -m tests.bench`; `--quick` for a first look, `--case` for one of them."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.bench import latency, load, report, servers

_REPO = Path(__file__).parents[2]


def main() -> None:
    """Measure, print the tables, and write them down."""
    words = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    words.add_argument("--quick", action="store_true", help="short rounds, for a first look; writes nothing down")
    words.add_argument("--case", default="", help="only what has this in its name; writes nothing down")
    words.add_argument("--rounds", type=int, help="rounds of each case [default: 5, quick 2]")
    words.add_argument("--seconds", type=int, help="seconds of a round [default: 1]")
    given = words.parse_args()
    rounds = given.rounds or (2 if given.quick else 5)
    seconds = given.seconds or 1
    subprocess.run([_REPO / "tests" / "provision", "bench"], check=True)
    os.sched_setaffinity(0, {servers.LOAD_CORE})  # what is started from here stays there, unless told otherwise
    hits: list[load.Result] = []
    with tempfile.TemporaryDirectory(prefix="ims-proxy-bench-") as name:
        directory = Path(name)
        with servers.upstream(directory) as upstream_port:
            with servers.all_of_them(upstream_port, directory) as compared:
                for case in load.CASES:
                    if given.case in case.name:
                        hits += load.measured(case, compared, upstream_port, rounds=rounds, seconds=seconds, say=_say)
            _say("")
            figures = latency.figures(upstream_port, directory, quick=given.quick, only=given.case, say=_say)
    _say("")
    print(report.tables(hits, figures))
    if not given.quick and not given.case:
        written = _REPO / "docs" / "benchmarks.md"
        written.parent.mkdir(exist_ok=True)
        written.write_text(report.document(hits, figures, rounds=rounds, seconds=seconds))
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
