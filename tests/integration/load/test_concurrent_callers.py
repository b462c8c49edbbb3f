"""However many callers ask at once, and however busy the machine is, the upstream is asked once for each listing.

Each part is a process of its own, the proxies have a user's default settings, and what is asserted are counts. The
callers send every request the whole way through the proxy, for listings that nobody has asked for before.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import Say
from tests.load.listings import LISTINGS
from tests.load.rig import MEMORY, REDIS, Rig, run_rig

# One process of the test run has them all: beside each other they would be each other's busy neighbours.
pytestmark = pytest.mark.xdist_group("load")

# In each arrangement of stores and replicas every run asks for listings of its own: callers, beside a busy process.
RUNS = [(64, False), (256, False), (64, True), (256, True)]
REQUESTS = {64: 1_500, 256: 3_000}


@pytest.fixture(
    scope="module",
    params=[(MEMORY, 1), (REDIS, 1), (MEMORY, 2), (REDIS, 2)],
    ids=["memory", "redis", "memory, two replicas", "redis, two replicas"],
)
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """Everything but the callers, for all the runs of one arrangement."""
    store, replicas = request.param
    directory = tmp_path_factory.mktemp("load")
    with run_rig(directory, store=store, replicas=replicas, listings=LISTINGS * len(RUNS)) as running:
        yield running


@pytest.mark.parametrize(
    ("callers", "hog"), RUNS, ids=[f"{callers} callers{', busy core' * hog}" for callers, hog in RUNS]
)
def test_concurrent_callers_cost_one_call_per_listing(rig: Rig, callers: int, hog: bool, say: Say) -> None:
    """Nothing fails, nothing is wrong, no breaker opens; replicas with one store share the calls, others don't."""
    first = LISTINGS * RUNS.index((callers, hog))
    outcome = rig.run(callers, requests=REQUESTS[callers], first=first, hog=hog)
    say(outcome.describe())
    assert not outcome.failures
    assert outcome.answers == REQUESTS[callers]
    assert outcome.upstream_calls == outcome.expected_calls, outcome.describe()
    assert not outcome.breaker_events
