"""Conditions of callers, and our own."""

from __future__ import annotations

import pytest

from proxy.core.messages import Fields
from proxy.http.conditional import freshen_fields, is_not_modified, is_validated_by, validation_conditions
from tests.support.stored_responses import AT_NOW, NOW, an_answer

EARLIER = "Wed, 31 Dec 2025 00:00:00 GMT"
TODAY = "Thu, 01 Jan 2026 00:00:00 GMT"
Lines = list[tuple[str, str]]


@pytest.mark.parametrize(
    ("asked", "has", "holds"),
    [
        ([], [("ETag", '"a"')], False),
        ([("If-None-Match", '"a"')], [("ETag", '"a"')], True),
        ([("If-None-Match", 'W/"a"')], [("ETag", '"a"')], True),
        ([("If-None-Match", '"b", "a"')], [("ETag", 'W/"a"')], True),
        ([("If-None-Match", '"b"'), ("If-None-Match", '"a"')], [("ETag", '"a"')], True),
        ([("If-None-Match", "*")], [("ETag", '"a"')], True),
        ([("If-None-Match", '"b"')], [("ETag", '"a"')], False),
        ([("If-None-Match", "a")], [("ETag", '"a"')], False),
        ([("If-None-Match", '"a"')], [], False),
        (
            [("If-None-Match", '"b"'), ("If-Modified-Since", TODAY)],
            [("ETag", '"a"'), ("Last-Modified", EARLIER)],
            False,
        ),
        ([("If-None-Match", '"a"'), ("If-Modified-Since", EARLIER)], [("ETag", '"a"'), ("Last-Modified", TODAY)], True),
        ([("If-Modified-Since", TODAY)], [("Last-Modified", TODAY)], True),
        ([("If-Modified-Since", TODAY)], [("Last-Modified", EARLIER)], True),
        ([("If-Modified-Since", EARLIER)], [("Last-Modified", TODAY)], False),
        ([("If-Modified-Since", TODAY)], [AT_NOW], True),
        ([("If-Modified-Since", EARLIER)], [AT_NOW], False),
        ([("If-Modified-Since", "soon")], [("Last-Modified", EARLIER)], False),
        ([("If-Modified-Since", TODAY)], [("Last-Modified", "soon")], False),
    ],
)
def test_who_has_an_answer_needs_no_body(asked: Lines, has: Lines, holds: bool) -> None:
    """By entity tag, and by date only where no tag was sent."""
    assert is_not_modified(Fields(asked), Fields(has), now=NOW) is holds


def test_the_upstream_is_asked_by_what_it_gave() -> None:
    """Weak tags too, as they came; without a validator it is not asked on a condition."""
    answer = an_answer(("ETag", 'W/"a"'), ("Last-Modified", EARLIER))
    assert validation_conditions(answer) == (("If-None-Match", 'W/"a"'), ("If-Modified-Since", EARLIER))
    assert validation_conditions(an_answer()) == ()


@pytest.mark.parametrize("value", ['"a\x01b"', '"a\x7f"', "\x0b"])
def test_the_upstream_is_not_asked_by_what_no_request_may_hold(value: str) -> None:
    """A control character in one validator leaves the other; in both there is none."""
    assert validation_conditions(an_answer(("ETag", value), ("Last-Modified", EARLIER))) == (
        ("If-Modified-Since", EARLIER),
    )
    assert validation_conditions(an_answer(("ETag", value), ("Last-Modified", value))) == ()


def test_a_304_brings_newer_fields_but_none_of_the_body() -> None:
    """RFC 9111 §3.2: every line of a name is replaced, what describes the body stays."""
    stored = Fields(
        [
            ("Cache-Control", "max-age=1"),
            ("A", "1"),
            ("A", "2"),
            ("B", "1"),
            ("Age", "9"),
            ("Content-Type", "text/plain"),
            ("Content-Length", "10"),
        ]
    )
    newer = Fields([("cache-control", "max-age=60"), ("a", "3"), ("Content-Length", "0"), ("Content-Type", "x/y")])
    assert sorted(freshen_fields(stored, newer)) == [
        ("B", "1"),
        ("Content-Length", "10"),
        ("Content-Type", "x/y"),
        ("a", "3"),
        ("cache-control", "max-age=60"),
    ]


@pytest.mark.parametrize(
    ("had", "says", "holds"),
    [('"a"', '"a"', True), ('"a"', None, True), (None, '"a"', True), ('"a"', '"b"', False), ('"a"', 'W/"b"', True)],
)
def test_a_304_speaks_of_the_answer_it_names(had: str | None, says: str | None, holds: bool) -> None:
    """Another strong tag is another answer's."""
    answer = an_answer(*([("ETag", had)] if had else []))
    assert is_validated_by(answer, Fields([("ETag", says)] if says else [])) is holds
