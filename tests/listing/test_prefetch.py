"""How big the next fetch is."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.listing.prefetch import FetchSizing

READAHEAD = FetchSizing(max_page=1000)
ROWS = st.integers(1, 1000)


@given(ROWS, st.integers(0, 1000))
def test_a_fetch_is_never_shorter_than_the_page_nor_longer_than_the_upstream_gives(rows: int, previous: int) -> None:
    """Whatever went before, the caller's page is in it, and the upstream's maximum holds."""
    assert rows <= READAHEAD.first_size(rows) <= 1000
    assert rows <= READAHEAD.next_size(rows, previous=previous) <= 1000


@given(ROWS, st.integers(0, 1000))
def test_switched_off_a_fetch_is_the_page(rows: int, previous: int) -> None:
    """Without readahead a span is as long as the page."""
    off = FetchSizing(max_page=1000, enabled=False)
    assert off.first_size(rows) == off.next_size(rows, previous=previous) == rows
    assert not off.is_prefetch_due(left=0, page=rows, span=previous, paging=True)


@given(ROWS)
def test_strides_grow_while_a_caller_pages(rows: int) -> None:
    """Each fetch of a crawl is longer than the one before, until the maximum."""
    strides = [READAHEAD.first_size(rows)]
    while strides[-1] < 1000 and len(strides) < 50:
        strides.append(READAHEAD.next_size(rows, previous=strides[-1]))
        assert strides[-1] > strides[-2]
    assert strides[-1] == 1000


def test_a_crawl_at_25_costs_a_handful_of_fetches() -> None:
    """Two thousand images, read twenty-five at a time, are about five fetches instead of eighty."""
    fetched, stride, fetches = 0, 0, 0
    while fetched < 2000:
        stride = READAHEAD.next_size(25, previous=stride)
        fetched, fetches = fetched + stride, fetches + 1
    assert fetches <= 6


def test_a_look_up_costs_what_it_asks_for() -> None:
    """One image by its name is not a crawl."""
    assert READAHEAD.first_size(1) == 1


def test_only_paging_callers_are_read_ahead_for() -> None:
    """The first page of a listing sets nothing going; the middle of a span does."""
    assert not READAHEAD.is_prefetch_due(left=0, page=25, span=100, paging=False)
    assert READAHEAD.is_prefetch_due(left=50, page=25, span=100, paging=True)
    assert not READAHEAD.is_prefetch_due(left=75, page=25, span=100, paging=True)
