"""Values that are made anew for each request."""

from __future__ import annotations

from dataclasses import field, replace

import pytest

from proxy.core.values import immutable


@immutable
class Pair:
    """A value with a default and a part that does not count."""

    left: int
    right: tuple[int, ...] = ()
    note: str = field(default="", compare=False)


def test_equal_values_are_one_key() -> None:
    """Values are equal, and found again, by what counts of them."""
    assert Pair(1, (2,), note="a") == Pair(1, (2,), note="b") != Pair(2)
    assert len({Pair(1), Pair(1, note="b"), Pair(2)}) == 2
    assert replace(Pair(1), right=(3,)) == Pair(1, (3,))


def test_a_value_has_its_fields_and_no_others() -> None:
    """There is no room for a field that is not declared."""
    with pytest.raises(AttributeError):
        Pair(1).more = 2  # type: ignore[attr-defined]


def test_the_type_checker_lets_nobody_alter_a_value() -> None:
    """An assignment is an error to it: were it none, this exception from it would be one too many."""
    one = Pair(1)
    one.left = 2  # type: ignore[misc]
