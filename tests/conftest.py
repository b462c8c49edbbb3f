"""What every test relies on."""

from pathlib import Path
from typing import Final

import pytest
from hypothesis import settings

# A busy machine makes single examples slow; the whole run is bounded by its runner, not each example by a deadline.
settings.register_profile("here", deadline=None, print_blob=True)
settings.load_profile("here")

# Where a run is spread over processes, tests that share one costly program stay together in one of them.
_TOGETHER: Final = ("glance", "keystone")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put each test that shares a program into the group that is named after it."""
    for item in items:
        names = {part.removeprefix("test_") for part in Path(item.nodeid.partition("::")[0]).with_suffix("").parts}
        for group in names.intersection(_TOGETHER):
            item.add_marker(pytest.mark.xdist_group(group))
