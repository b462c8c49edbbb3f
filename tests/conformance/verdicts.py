"""What the suite's results say: which tests passed, by its own rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

REQUIRED, OPTIMAL, CHECK = "required", "optimal", "check"


@dataclass(frozen=True, slots=True)
class Test:
    """One test of the suite: *kind* is `required`, `optimal`, or `check`, which neither passes nor fails."""

    __test__ = False

    id: str
    suite: str
    kind: str
    depends_on: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: each test with what was said of it, None for one that *passed*."""

    tests: Mapping[str, Test]
    said: Mapping[str, str | None]

    def passed(self, test_id: str) -> bool:
        """Whether a test passed, and with it those that it depends on: else it says nothing."""
        return self.said.get(test_id, "not run") is None and all(map(self.passed, self.tests[test_id].depends_on))

    def failed(self, kind: str) -> dict[str, str]:
        """Return the tests of *kind* that did not pass, and why."""
        return {
            test.id: self.said.get(test.id, "not run") or f"depends on {', '.join(self._lacking(test))}"
            for test in self.tests.values()
            if test.kind == kind and not self.passed(test.id)
        }

    def score(self, kind: str) -> tuple[int, int]:
        """Return how many tests of *kind* passed, of how many."""
        of_kind = [test.id for test in self.tests.values() if test.kind == kind]
        return sum(map(self.passed, of_kind)), len(of_kind)

    def _lacking(self, test: Test) -> list[str]:
        return [each for each in test.depends_on if not self.passed(each)]


def outcome(tests: Sequence[Mapping[str, Any]], results: Mapping[str, Any]) -> Outcome:
    """Return what the suite printed; tests for browsers alone are left out."""
    kept = [each for each in tests if not each["browser_only"]]
    return Outcome(
        {each["id"]: Test(each["id"], each["suite"], each["kind"], tuple(each["depends_on"])) for each in kept},
        {test_id: None if result is True else ": ".join(map(str, result)) for test_id, result in results.items()},
    )
