"""Writes docs/conformance.md: `python -m tests.conformance [--checkout DIR]`.

All caches are run before the same origin, one after the other. With a checkout of the suite's repository, in which
`npm install` was run, the section about its current revision is written too; it stays as it is without.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.conformance import caches, suite
from tests.conformance.report import DOCUMENT, OURS, section, written
from tests.conformance.suite import Suite
from tests.conformance.verdicts import Outcome

# Browsers are no shared caches, and these are run here.
_NOT_PUBLISHED = ("chrome", "firefox", "safari", "nginx", "varnish")


def main() -> int:
    """Run every cache over the suite, and write down what it says."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance")
    parser.add_argument("--checkout", type=Path, help="a checkout of github.com/http-tests/cache-tests")
    checkout = parser.parse_args().checkout
    suites = {"package": suite.package()} | ({"checkout": suite.checkout(checkout.resolve())} if checkout else {})
    for name, each in suites.items():
        measured, published = _measured(each)
        text = section(each.name, name, measured, published)
        DOCUMENT.write_text(written(DOCUMENT.read_text(), name, text))
        sys.stdout.write(text)
    return 0


def _measured(each: Suite) -> tuple[dict[str, Outcome], dict[str, Outcome]]:
    run: dict[str, caches.Cache] = {
        OURS: caches.proxy,
        f"nginx {caches.version('nginx')}": caches.nginx,
        f"Varnish {caches.version('varnishd')}": caches.varnish,
    }
    measured = {}
    with tempfile.TemporaryDirectory() as directory, each.origin(Path(directory)) as origin:
        for name, cache in run.items():
            with cache(origin, Path(directory)) as url:
                measured[name] = each.run(url, Path(directory))
        published = each.published(Path(directory))
    return measured, {name: outcome for name, outcome in published.items() if name not in _NOT_PUBLISHED}


if __name__ == "__main__":
    sys.exit(main())
