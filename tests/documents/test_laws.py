"""The document of the laws names tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_law_is_held_by_tests_that_are_there() -> None:
    """Twelve laws in order, each with test files."""
    rows = re.findall(r"^\| (\d+) \| .* \| (.+) \|$", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 13))
    for number, held_by in rows:
        named = re.findall(r"`([^`]+)`", held_by)
        missing = [name for name in named if not (ROOT / name).is_file()]
        assert named, f"law {number}: no test is named"
        assert not missing, f"law {number}: {missing}"
