"""What goes first when memory is full."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.core.segments import Segments

KEYS = st.integers(0, 12)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), KEYS, st.integers(1, 60)),
        st.tuples(st.just("use"), KEYS, st.just(0)),
        st.tuples(st.just("remove"), KEYS, st.just(0)),
    )
)


@given(st.integers(1, 100), STEPS)
def test_bound(max_bytes: int, steps: list[tuple[str, int, int]]) -> None:
    """Whatever happens, no more is held than may be, and what is held is what was added and not told to go."""
    segments: Segments[int] = Segments(max_bytes)
    held: dict[int, int] = {}
    for what, key, size_bytes in steps:
        if what == "add":
            held[key] = size_bytes
            for gone in segments.add(key, size_bytes):
                del held[gone]
        elif what == "remove":
            segments.remove(key)
            held.pop(key, None)
        elif key in segments:
            segments.use(key)
        assert {known for known in range(13) if known in segments} == set(held)
        assert segments.stored_bytes == sum(held.values()) <= max_bytes
        assert len(segments) == len(held)


@given(st.integers(1, 100), STEPS, st.integers(1, 100))
def test_newcomer_stays(max_bytes: int, steps: list[tuple[str, int, int]], size_bytes: int) -> None:
    """What was just added is there, unless it is more than all that may be held."""
    segments: Segments[int] = Segments(max_bytes)
    for what, key, size in steps:
        if what == "add":
            segments.add(key, size)
        elif what == "use" and key in segments:
            segments.use(key)
    segments.add(99, size_bytes)
    assert (99 in segments) == (size_bytes <= max_bytes)


def test_flood() -> None:
    """A thousand keys that nobody asks for twice leave alone what is asked for often."""
    segments: Segments[str] = Segments(100)
    for key in ("a", "b"):
        segments.add(key, 10)
        segments.use(key)
    for number in range(1000):
        segments.add(f"once-{number}", 10)
    assert "a" in segments
    assert "b" in segments
    assert len(segments) == 10


def test_oldest_first() -> None:
    """Among keys that were asked for once, the oldest goes."""
    segments: Segments[str] = Segments(30)
    assert [segments.add(key, 10) for key in "abcd"] == [[], [], [], ["a"]]


def test_protection_passes_on() -> None:
    """What takes the place of something protected is protected too."""
    segments: Segments[str] = Segments(100)
    segments.add("a", 10)
    segments.use("a")
    segments.add("a", 20)
    for number in range(100):
        segments.add(f"once-{number}", 10)
    assert "a" in segments


def test_protection_ends() -> None:
    """What is no longer asked for makes room for what is, and is on probation again."""
    segments: Segments[str] = Segments(100)
    segments.add("old", 10)
    segments.use("old")
    for number in range(8):
        segments.add(f"new-{number}", 10)
        segments.use(f"new-{number}")
    for number in range(2):
        segments.add(f"once-{number}", 10)
    assert "old" not in segments
    assert "new-0" in segments
