"""For whom a call is made."""

from __future__ import annotations

import pytest

from proxy.core.call_context import CallContext, Priority

WAITING = CallContext(Priority.BATCH, caller="a", partition="p")


@pytest.mark.parametrize("purpose", ["list", "resource", "marker_recovery", "forward"])
def test_a_caller_that_waits_keeps_its_rank(purpose: str) -> None:
    """A call that its caller waits for is made as that caller."""
    assert WAITING.for_purpose(purpose) == WAITING


@pytest.mark.parametrize(
    ("purpose", "priority"), [("revalidate", Priority.REVALIDATION), ("prefetch", Priority.PREFETCH)]
)
def test_what_nobody_waits_for_yields(purpose: str, priority: Priority) -> None:
    """A call that nobody waits for counts towards the same budget, ranks below those of callers, and does not queue."""
    assert WAITING.for_purpose(purpose) == CallContext(priority, caller="a", partition="p", may_wait=False)
