"""Several texts as one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.core.partition import length_prefixed

PARTS = st.lists(st.text(st.sampled_from("0123:ab")) | st.binary(max_size=5), max_size=4)


@given(PARTS, PARTS)
def test_other_parts_make_other_bytes(one: list[str | bytes], two: list[str | bytes]) -> None:
    """Two lists make the same bytes only if they have the same parts, whatever looks like a length or a delimiter."""
    same = [each.encode() if isinstance(each, str) else each for each in one] == [
        each.encode() if isinstance(each, str) else each for each in two
    ]
    assert (length_prefixed(one) == length_prefixed(two)) is same


def test_text_may_hold_what_is_no_utf_8() -> None:
    """A surrogate stands for the byte that it was made from."""
    assert length_prefixed(["\udcff"]) == length_prefixed([b"\xff"]) == b"1:\xff"
