"""How long listings were, as far as a log tells."""

from __future__ import annotations

import pytest

from proxy.listing.request import PageSizes
from proxy.replay.entries import LogEntry
from proxy.replay.listings import ObservedListings

SIZES = PageSizes(max_page=1000)
NAME = ("ci", "/v2/images", "")


def learnt(*pages: tuple[str, int | None], caller: str = "ci", status: int = 200) -> ObservedListings:
    """Return what is known after *pages*, each a query and the size of its body."""
    listings = ObservedListings(SIZES, partition_of=lambda caller: caller)
    for query, size in pages:
        listings.observe(LogEntry(0.0, caller, "GET", f"/v2/images?{query}", status, size))
    return listings


def length(listings: ObservedListings) -> int:
    """Return how many images are in the listing."""
    page = listings.page(NAME, None, 10_000)
    assert page is not None
    return len(page[0])


@pytest.mark.parametrize(
    ("pages", "expected"),
    [
        pytest.param([("limit=10", None)], 9, id="a page that nobody went on from was the last, and not full"),
        pytest.param([("limit=10", None), ("limit=10&marker=a", None)], 19, id="one that another followed was full"),
        pytest.param([("", None)], 24, id="without a limit it was the upstream's own"),
        pytest.param([("limit=5000", None)], 999, id="nor longer than the upstream gives"),
        pytest.param(
            [("limit=10", 9000), ("limit=10&marker=a", 8900)], 1020, id="a last page as large as full ones was full"
        ),
        pytest.param([("limit=10", 9000), ("limit=10&marker=a", 4000)], 19, id="a smaller one was not"),
        pytest.param([("limit=10", 9000), ("limit=10&marker=a", 90)], 10, id="one without images was empty"),
        pytest.param([("limit=10&marker=a", None)], 10, id="a marker that follows no page stands behind all known"),
    ],
)  # fmt: skip
def test_lengths(pages: list[tuple[str, int | None]], expected: int) -> None:
    """From the pages that were asked for, and from the size of their bodies where that is logged."""
    assert length(learnt(*pages)) == expected


def test_markers_stand_where_their_page_ended() -> None:
    """Two crawls of one caller, side by side with other limits, meet at the same places."""
    listings = learnt(
        ("limit=10", None),
        ("limit=25", None),
        ("limit=10&marker=ten", None),
        ("limit=25&marker=twenty-five", None),
        ("limit=10&marker=twenty", None),
    )
    head = listings.page(NAME, None, 30)
    assert head is not None
    assert [head[0].index(marker) for marker in ("ten", "twenty", "twenty-five")] == [9, 19, 24]
    behind = listings.page(NAME, "twenty", 5)
    assert behind == (head[0][20:25], True)


def test_what_is_no_list_tells_nothing() -> None:
    """Refusals and other requests leave a listing empty; an unknown marker is none of it."""
    listings = learnt(("limit=10", None), status=404)
    assert listings.page(NAME, None, 10) == ([], False)
    assert listings.page(NAME, "nowhere", 10) is None
