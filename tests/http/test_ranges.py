"""Parts of an answer."""

from __future__ import annotations

import pytest

from proxy.core.messages import Fields, Response
from proxy.http.conditional import apply_range
from tests.support.stored_responses import NOW

EARLIER = "Wed, 31 Dec 2025 00:00:00 GMT"
WHOLE = Response(200, Fields([("ETag", '"a"'), ("Last-Modified", EARLIER), ("Content-Length", "10")]), b"0123456789")


@pytest.mark.parametrize(
    ("asked", "part", "stated"),
    [
        ("bytes=0-1", b"01", "bytes 0-1/10"),
        ("bytes=9-", b"9", "bytes 9-9/10"),
        ("bytes=5-99", b"56789", "bytes 5-9/10"),
        ("bytes=-3", b"789", "bytes 7-9/10"),
        ("bytes=-99", b"0123456789", "bytes 0-9/10"),
        ("Bytes= 2-3 ", b"23", "bytes 2-3/10"),
    ],
)
def test_one_range_is_cut_out(asked: str, part: bytes, stated: str) -> None:
    """With the answer's own fields, and what was cut."""
    got = apply_range(Fields([("Range", asked)]), WHOLE, now=NOW)
    assert (got.status, got.body, got.fields.get_all("content-range")) == (206, part, [stated])
    assert got.fields.get("etag") == '"a"'
    assert got.fields.get("content-length") is None


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=99-100", "bytes=-0"])
def test_a_range_beyond_the_end_can_t_be_met(asked: str) -> None:
    """416, with the length that is there."""
    got = apply_range(Fields([("Range", asked)]), WHOLE, now=NOW)
    assert (got.status, got.fields.get("content-range"), got.body) == (416, "bytes */10", b"")


@pytest.mark.parametrize("asked", ["bytes=0-1,3-4", "bytes=5-2", "bytes=-", "bytes=a-b", "lines=0-1", "bytes=--1", ""])
def test_what_is_no_single_range_is_not_there(asked: str) -> None:
    """The whole is an answer too."""
    assert apply_range(Fields([("Range", asked)]), WHOLE, now=NOW) is WHOLE


@pytest.mark.parametrize(
    ("condition", "status"),
    [('"a"', 206), ('"b"', 200), ('W/"a"', 200), (EARLIER, 206), ("Thu, 01 Jan 2026 00:00:00 GMT", 200), ("soon", 200)],
)
def test_a_range_of_something_else_is_not_met(condition: str, status: int) -> None:
    """`If-Range` has to name this representation."""
    assert apply_range(Fields([("Range", "bytes=0-1"), ("If-Range", condition)]), WHOLE, now=NOW).status == status


def test_a_date_that_the_answer_has_not_meets_no_range() -> None:
    """Nothing can be said, so the whole is given."""
    undated = Response(200, Fields(), b"0123")
    assert apply_range(Fields([("Range", "bytes=0-1"), ("If-Range", "soon")]), undated, now=NOW) is undated
