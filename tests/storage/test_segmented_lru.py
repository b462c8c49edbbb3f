"""What goes first when memory is full."""

from __future__ import annotations

import random
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.storage.segmented_lru import SegmentedLRU

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
    segments: SegmentedLRU[int] = SegmentedLRU(max_bytes)
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
    segments: SegmentedLRU[int] = SegmentedLRU(max_bytes)
    for what, key, size in steps:
        if what == "add":
            segments.add(key, size)
        elif what == "use" and key in segments:
            segments.use(key)
    segments.add(99, size_bytes)
    assert (99 in segments) == (size_bytes <= max_bytes)


def often_used(segments: SegmentedLRU[str], *keys: str) -> None:
    """Add *keys*, and use each again after something else has come in."""
    for key in keys:
        segments.add(key, 10)
    segments.add("something else", 10)
    for key in keys:
        segments.use(key)


@pytest.mark.parametrize("times", [1, 2, 3])
def test_flood(times: int) -> None:
    """A thousand keys, each asked for a few times in a row and never again, leave alone what is asked for often."""
    segments: SegmentedLRU[str] = SegmentedLRU(100)
    often_used(segments, "a", "b")
    for number in range(1000):
        segments.add(f"once-{number}", 10)
        for _ in range(times - 1):
            segments.use(f"once-{number}")
    assert "a" in segments
    assert "b" in segments
    assert len(segments) == 10


def asked(noise: float, *, times: int) -> Iterator[tuple[str, bool]]:
    """Yield what is asked for, and whether it is one of 2,000 keys of which some are popular.

    The others, a share of *noise*, are asked for *times* in a row and never again.
    """
    dice = random.Random(1)  # the same keys each time
    popular = dice.choices(range(2_000), [1 / (rank + 1) ** 0.9 for rank in range(2_000)], k=40_000)
    for number, key in enumerate(popular):
        if dice.random() < noise:
            yield from [(f"once-{number}", False)] * times
        else:
            yield f"popular-{key}", True


def hits(of: Callable[[str], bool], noise: float, *, times: int) -> float:
    """Return the share of the popular keys that *of* has when they are asked for; it takes in what it has not."""
    found = [there for key, counts in asked(noise, times=times) for there in [of(key)] if counts]
    return sum(found) / len(found)


class Segmented:
    """The policy that is tested, for 200 keys."""

    def __init__(self) -> None:
        self.segments: SegmentedLRU[str] = SegmentedLRU(200)

    def __call__(self, key: str) -> bool:
        """Return whether *key* was there; it is now."""
        if key in self.segments:
            self.segments.use(key)
            return True
        self.segments.add(key, 1)
        return False


class Plain:
    """LRU, for 200 keys."""

    def __init__(self) -> None:
        self.keys: OrderedDict[str, None] = OrderedDict()

    def __call__(self, key: str) -> bool:
        """Return whether *key* was there; it is now."""
        there = key in self.keys
        self.keys[key] = None
        self.keys.move_to_end(key)
        if len(self.keys) > 200:
            self.keys.popitem(last=False)
        return there


class WithFrequencies:
    """W-TinyLFU (Einziger, Friedman, Manes, 2017) for 200 keys, with exact counts in the place of its sketch."""

    def __init__(self) -> None:
        self.window: OrderedDict[str, None] = OrderedDict()
        self.main: OrderedDict[str, None] = OrderedDict()
        self.counts: Counter[str] = Counter()
        self.counted = 0

    def __call__(self, key: str) -> bool:
        """Return whether *key* was there; whether it is now depends on how often it and others are asked for."""
        self.counts[key] += 1
        self.counted += 1
        if self.counted > 2_000:
            self.counts = Counter({each: count // 2 for each, count in self.counts.items() if count > 1})
            self.counted = self.counts.total()
        for part in (self.window, self.main):
            if key in part:
                part.move_to_end(key)
                return True
        self.window[key] = None
        if len(self.window) > 2:
            candidate, _ = self.window.popitem(last=False)
            if len(self.main) < 198:
                self.main[candidate] = None
            elif self.counts[candidate] > self.counts[victim := next(iter(self.main))]:
                del self.main[victim]
                self.main[candidate] = None
        return False


@pytest.mark.parametrize("noise", [0.0, 0.3, 0.6])
@pytest.mark.parametrize("times", [1, 2])
def test_beside_other_policies(noise: float, times: int) -> None:
    """Of what is asked for often it keeps more than LRU does, and about as much as W-TinyLFU."""
    shares = {policy: hits(policy(), noise, times=times) for policy in (Segmented, Plain, WithFrequencies)}
    assert shares[Segmented] > shares[Plain] + 0.05
    assert shares[Segmented] > shares[WithFrequencies] - 0.03


def test_oldest_first() -> None:
    """Among keys that were asked for once, the oldest goes."""
    segments: SegmentedLRU[str] = SegmentedLRU(30)
    assert [segments.add(key, 10) for key in "abcd"] == [[], [], [], ["a"]]


def test_protection_passes_on() -> None:
    """What takes the place of something protected is protected too."""
    segments: SegmentedLRU[str] = SegmentedLRU(100)
    often_used(segments, "a")
    segments.add("a", 20)
    for number in range(100):
        segments.add(f"once-{number}", 10)
    assert "a" in segments


def test_protection_ends() -> None:
    """What is no longer asked for makes room for what is, and is on probation again."""
    segments: SegmentedLRU[str] = SegmentedLRU(100)
    segments.add("old", 10)
    segments.use("old")
    for number in range(8):
        segments.add(f"new-{number}", 10)
        segments.use(f"new-{number}")
    for number in range(2):
        segments.add(f"once-{number}", 10)
    assert "old" not in segments
    assert "new-0" in segments
