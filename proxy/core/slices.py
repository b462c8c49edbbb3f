"""Long work in slices: pure code yields between them, and whoever drives it may let other work go on meanwhile."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Final, NamedTuple, TypeAlias, TypeVar

Result = TypeVar("Result")
Steps: TypeAlias = Generator[None, None, Result]


class SliceLimits(NamedTuple):
    """What a slice holds at most."""

    max_bytes: int
    max_items: int


DEFAULT_LIMITS: Final = SliceLimits(256 * 1024, 250)


def cut_slices(sizes: Sequence[int], limits: SliceLimits = DEFAULT_LIMITS) -> list[range]:
    """Return consecutive ranges of indices of *sizes*, each within *limits*.

    An item that is larger by itself is a slice of its own.
    """
    if len(sizes) <= limits.max_items and sum(sizes) <= limits.max_bytes:
        return [range(len(sizes))] if sizes else []
    slices: list[range] = []
    start = slice_bytes = 0
    for index, size in enumerate(sizes):
        if index > start and (index - start >= limits.max_items or slice_bytes + size > limits.max_bytes):
            slices.append(range(start, index))
            start, slice_bytes = index, 0
        slice_bytes += size
    slices.append(range(start, len(sizes)))
    return slices


def run_to_end(steps: Steps[Result]) -> Result:
    """Run *steps* without a pause and return their result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result
