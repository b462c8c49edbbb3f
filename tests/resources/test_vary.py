"""Which request an answer was selected for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.core.messages import Fields
from proxy.http.stored_response import StoredResponse
from proxy.resources.storability import nominate_fields, select, vary_names
from tests.support.stored_responses import an_answer

Lines = list[tuple[str, str]]


def given_to(lines: Lines, *vary: str, body: bytes = b"") -> StoredResponse:
    """Return an answer with the fields `Vary`, as it was given to a request with *lines*."""
    answer = an_answer(*(("Vary", value) for value in vary), body=body)
    return replace(answer, nominated=nominate_fields(Fields(lines), vary_names(answer.fields)))


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ([("Foo", "1")], [("foo", "1")], True),
        ([("Foo", "1")], [("Foo", "2")], False),
        ([("Foo", "1")], [], False),
        ([], [("Foo", "1")], False),
        ([("Foo", "")], [], False),
        ([], [], True),
        ([("Foo", "1, 2")], [("Foo", "1"), ("Foo", "2")], True),
        ([("Foo", "1,2")], [("Foo", " 1 ,\t2")], True),
        ([("Foo", "1, 2")], [("Foo", "2, 1")], False),
        ([("Foo", "a")], [("Foo", "A")], False),
        ([("Foo", '"a, b"')], [("Foo", '"a,b"')], False),
        ([("Accept-Language", "en, de")], [("Accept-Language", "De ,  eN")], True),
        ([("Accept-Language", "en;q=0.5, de")], [("Accept-Language", "en, de;q=0.5")], False),
    ],
)
def test_alike_requests_select_the_same_answer(first: Lines, second: Lines, same: bool) -> None:
    """What a spelling can't change is not told apart, and all else is."""
    answer = given_to(first, "Foo, accept-language")
    assert (select(Fields(second), [answer]) is answer) is same


def test_the_first_of_those_that_are_selected_counts() -> None:
    """Each by its own nominated fields."""
    answers = [
        given_to([("A", "1"), ("B", "1")], "A", "b", body=b"ab"),
        given_to([("A", "1")], "A", body=b"a"),
        given_to([], body=b"any"),
    ]
    found = [select(Fields(lines), answers) for lines in ([("A", "1"), ("B", "1")], [("A", "1")], [("A", "2")])]
    assert [answer and answer.body for answer in found] == [b"ab", b"a", b"any"]


def test_a_coded_answer_varies_by_what_its_caller_can_read() -> None:
    """Whether it says so or not."""
    assert vary_names(Fields([("Content-Encoding", "gzip"), ("Vary", "Foo,, foo")])) == ("accept-encoding", "foo")
