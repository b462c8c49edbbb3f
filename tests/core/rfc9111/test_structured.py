"""Dictionaries of structured fields."""

from __future__ import annotations

import pytest

from proxy.http.cache_control import Member, dictionary


@pytest.mark.parametrize(
    ("text", "members"),
    [
        ("", {}),
        ("max-age=60", {"max-age": 60}),
        ("  max-age=60 ,\t private ", {"max-age": 60, "private": True}),
        ("a=?0, b=?1, c", {"a": False, "b": True, "c": True}),
        ('a="x\\"y", b=token/1, c=:AQ==:', {"a": 'x"y', "b": "token/1", "c": b"AQ=="}),
        ("a=-5, a=7", {"a": 7}),
        ("a=1.5", {"a": 1.5}),
        ('a=1;x=2; y="z";w, b;q', {"a": 1, "b": True}),
    ],
)
def test_members_are_read(text: str, members: dict[str, Member]) -> None:
    """Values come by their kind, parameters are passed over, the last of two counts."""
    assert dictionary(text) == members


@pytest.mark.parametrize(
    "text",
    [
        "a,",
        ",a",
        "a b",
        "A=1",
        "a=",
        "a=&",
        "a=1 0",
        "a=(1 2)",
        'a="x',
        "a=1.2345",
        "a=1;=2",
        "a=1;B",
        "a=1, &&&&",
        "é=1",
    ],
)
def test_what_is_malformed_is_no_dictionary(text: str) -> None:
    """One fault, and nothing of it counts."""
    assert dictionary(text) is None
