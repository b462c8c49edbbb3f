"""Long work is cut into slices that are bounded."""

from __future__ import annotations

from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from proxy.core.slices import DEFAULT_LIMITS, SliceLimits, Steps, cut_slices, run_to_end


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 60), st.integers(1, 8))
def test_slices_are_bounded_and_lose_nothing(sizes: list[int], max_bytes: int, max_items: int) -> None:
    """Every item is in one slice, in order; a slice exceeds its bytes only by holding a single item."""
    slices = cut_slices(sizes, SliceLimits(max_bytes, max_items))
    assert list(chain.from_iterable(slices)) == list(range(len(sizes)))
    for each in slices:
        assert 1 <= len(each) <= max_items
        assert len(each) == 1 or sum(sizes[index] for index in each) <= max_bytes


def test_page_of_ordinary_size_is_one_slice() -> None:
    """A default page of 25 images, and even one of 200 small images, is handled in one go."""
    assert cut_slices([1_240] * 25) == [range(25)]
    assert cut_slices([1_240] * 200) == [range(200)]
    assert len(cut_slices([1_240] * 1_000)) == 5
    assert DEFAULT_LIMITS.max_items == 250


def test_steps_run_to_their_result() -> None:
    """Whoever can't wait gets the result in one go."""

    def steps() -> Steps[str]:
        yield
        yield
        return "done"

    assert run_to_end(steps()) == "done"
