"""Whatever a log holds, it is replayed."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.config.policies import page_sizes
from proxy.replay.entries import LogEntry
from proxy.replay.listings import ObservedListings
from proxy.replay.report import LogSummary, report_rows, sum_outcomes, to_json
from proxy.replay.simulation import ReplayResult, Simulation, make_sharer
from tests.support.running import settings_for

SETTINGS = settings_for("http://127.0.0.1", cache={"readahead": True})
IDS = st.sampled_from(["a", "b", "image-3", "%00", "é"])
QUERIES = st.one_of(
    st.text(max_size=20),
    st.builds("limit={}&marker={}".format, st.integers(0, 2000), IDS),
    st.builds("sort_key={}&limit={}".format, st.sampled_from(["size", "name", "x"]), st.integers(0, 50)),
)
PATHS = st.sampled_from(["/v2/images", "/v2/cloudimages", "/v2/images/abc", "/v2/schemas/image", "/", "*", "/%"])
ENTRIES = st.builds(
    LogEntry,
    timestamp=st.floats(0, 5000),
    caller=st.sampled_from(["", "ci", "\ud800"]),
    method=st.sampled_from(["GET", "HEAD", "POST", "DELETE", "CONNECT", "X"]),
    target=st.builds("{}?{}".format, PATHS, QUERIES),
    status=st.sampled_from([200, 202, 204, 304, 400, 401, 403, 404, 429, 499, 500, 503, 999]),
    body_bytes=st.one_of(st.none(), st.integers(0, 100_000)),
)


async def replayed(entries: list[LogEntry]) -> ReplayResult:
    """Return what a log of *entries* comes to."""
    listings = ObservedListings(page_sizes(SETTINGS), partition_of=make_sharer(SETTINGS))
    for each in entries:
        listings.observe(each)
    simulation = Simulation(SETTINGS, listings)
    for each in entries:
        await simulation.replay_entry(each)
    await simulation.close()
    return simulation.result()


@settings(max_examples=60)
@given(st.lists(ENTRIES, max_size=12))
def test_no_log_is_too_odd(entries: list[LogEntry]) -> None:
    """Nothing fails, and every request is counted."""
    outcome = asyncio.run(replayed(entries))
    everything = sum_outcomes(report_rows(outcome)).counts
    assert everything.requests == len(entries)
    assert 0 <= everything.hits <= everything.requests
    assert to_json(LogSummary(), outcome)["total"]["requests"] == len(entries)
