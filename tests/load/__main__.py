"""`python -m tests.load --callers 64 --store redis --replicas 2 --seconds 8 [--hog]`: run the load, print a table."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests.bench.section import table
from tests.load.generator import HEADS, WHOLE
from tests.load.rig import HEAD, MEMORY, REDIS, Outcome, run_rig


def main() -> None:
    """Run each combination of callers and store, begun anew, and print a row for each."""
    words = argparse.ArgumentParser(prog="python -m tests.load", description=__doc__)
    words.add_argument("--callers", type=int, nargs="+", default=[64])
    words.add_argument("--store", choices=(MEMORY, REDIS), nargs="+", default=[REDIS])
    words.add_argument("--replicas", type=int, nargs="+", default=[1])
    bound = words.add_mutually_exclusive_group()
    bound.add_argument("--seconds", type=float)
    bound.add_argument("--requests", type=int)
    words.add_argument("--hog", action="store_true", help="beside a process that takes a whole core")
    words.add_argument("--set", action="append", default=[], metavar="SECTION__NAME=VALUE", help="a proxy's setting")
    words.add_argument("--seed", type=int, default=1)
    words.add_argument("--heads", choices=HEADS, default=WHOLE, help="what differs: see tests/load/generator.py")
    words.add_argument("--verbose", action="store_true", help="print failures and the events of breakers")
    given = words.parse_args()
    settings = dict(word.split("=", 1) for word in given.set)
    seconds = given.seconds if given.seconds or given.requests else 8.0
    outcomes: list[Outcome] = []
    for store in given.store:
        for replicas in given.replicas:
            for callers in given.callers:
                with (
                    tempfile.TemporaryDirectory(prefix="ims-proxy-load-") as name,
                    run_rig(Path(name), store=store, replicas=replicas, settings=settings) as rig,
                ):
                    outcome = rig.run(
                        callers,
                        requests=given.requests,
                        seconds=seconds,
                        seed=given.seed,
                        heads=given.heads,
                        hog=given.hog,
                    )
                outcomes.append(outcome)
                if given.verbose:
                    print(*outcome.failures, *outcome.breaker_events, sep="\n")
    print(table(HEAD, [each.row for each in outcomes]))


if __name__ == "__main__":
    main()
