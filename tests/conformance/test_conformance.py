"""What a public suite of cache tests says of the proxy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance import caches, suite
from tests.conformance.report import DOCUMENT, KNOWN, reasons
from tests.conformance.suite import Suite
from tests.conformance.verdicts import CHECK, OPTIMAL, REQUIRED, Outcome, outcome

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def package() -> Suite:
    """The suite as the npm registry has it."""
    return suite.package()


@pytest.fixture(scope="module")
def ours(package: Suite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    """How the suite ends against the proxy."""
    scratch = tmp_path_factory.mktemp("conformance")
    with package.origin(scratch) as origin, caches.proxy(origin, scratch) as url:
        yield package.run(url, scratch)


def test_what_is_required_is_done(ours: Outcome) -> None:
    """Every required test passes, but for those that are named with a reason."""
    unexpected = {test: why for test, why in ours.failed(REQUIRED).items() if test not in reasons("package")}
    assert not unexpected, "\n".join(f"{test}: {why}" for test, why in unexpected.items())


def test_it_is_ahead_of_other_caches(ours: Outcome, package: Suite, tmp_path: Path) -> None:
    """Of all whose results are published with the suite, on what is required and on what is optimal."""
    others = package.published(tmp_path)
    assert {"squid", "trafficserver", "apache"} <= set(others)
    for kind in (REQUIRED, OPTIMAL):
        assert ours.score(kind)[0] > max(each.score(kind)[0] for each in others.values())


def test_every_failure_has_a_reason_that_the_document_tells() -> None:
    """And no reason stands there for nothing."""
    told = DOCUMENT.read_text()
    for section in ("package", "checkout"):
        for test, reason in reasons(section).items():
            assert f"`{test}`" in told
            assert reason in told
    used = {reason for section in ("package", "checkout") for reason in KNOWN[section].values()}
    assert used == set(KNOWN["reasons"])


def test_a_test_passes_only_with_those_it_depends_on() -> None:
    """As the suite's own pages have it; what was not run has not passed, and browsers' tests are left out."""
    kinds = {"a": REQUIRED, "b": REQUIRED, "c": OPTIMAL, "d": CHECK, "e": REQUIRED}
    tests = [
        {
            "id": test,
            "suite": "s",
            "kind": kind,
            "depends_on": ["d"] if test == "b" else [],
            "browser_only": test == "e",
        }
        for test, kind in kinds.items()
    ]
    run = outcome(tests, {"a": True, "b": True, "c": ["Assertion", "no"], "d": ["Setup", "no"], "e": True})
    assert [run.score(kind) for kind in (REQUIRED, OPTIMAL, CHECK)] == [(1, 2), (0, 1), (0, 1)]
    assert run.failed(REQUIRED) == {"b": "depends on d"}
    assert run.failed(OPTIMAL) == {"c": "Assertion: no"}
    assert not outcome(tests, {}).passed("a")
