"""A stored answer as one caller gets it."""

from __future__ import annotations

import pytest

from proxy.core.messages import Fields, Request
from proxy.http.conditional import compute_entity_tag
from proxy.http.stored_response import FreshnessPolicy
from proxy.resources.routes import ResourceRoute
from proxy.resources.serving import choose_coding_for, present
from tests.support.stored_responses import NOW, an_answer

OWN = ResourceRoute("/a", FreshnessPolicy(60.0))
PUBLIC = ResourceRoute("/a", FreshnessPolicy(60.0), is_public=True)
AS_IT_CAME = ResourceRoute("/a", FreshnessPolicy(60.0), is_public=True, by_vary=True)


def asks(*lines: tuple[str, str], method: str = "GET") -> Request:
    """Return a request with *lines*."""
    return Request(method, "/a", Fields(lines), "id")


def test_a_hit_tells_its_age_and_a_fresh_answer_does_not() -> None:
    """One that was old when it came does all the same."""
    answer = an_answer(("Age", "7"), ("Cache-Control", "max-age=60"))
    young = an_answer(("Cache-Control", "max-age=60"))
    assert present(answer, asks(), OWN, hit=True, now=NOW + 5).fields.get_all("age") == ["12"]
    assert present(answer, asks(), OWN, hit=False, now=NOW).fields.get_all("age") == ["7"]
    assert present(young, asks(), OWN, hit=True, now=NOW).fields.get_all("age") == ["0"]
    assert present(young, asks(), OWN, hit=False, now=NOW).fields.get_all("age") == []


@pytest.mark.parametrize(
    ("said", "own", "public"),
    [
        ("public, max-age=60", "private, max-age=53", "max-age=53"),
        ("max-age=60, must-revalidate", "private, max-age=53, must-revalidate", "max-age=53, must-revalidate"),
        ("no-cache", "private, no-cache", "no-cache"),
        ("max-age=2", "private, max-age=0", "max-age=0"),
    ],
)
def test_who_has_credentials_is_told_that_the_answer_is_its_own(said: str, own: str, public: str) -> None:
    """Whatever the upstream said to all: another cache on the way does not know what the token means."""
    answer = an_answer(("Cache-Control", said), ("CDN-Cache-Control", "&"), ("Expires", "0"), ("Vary", "Foo"))
    for route, expected in ((OWN, own), (PUBLIC, public)):
        fields = present(answer, asks(), route, hit=True, now=NOW + 7).fields
        assert fields.get_all("cache-control") == [expected]
        assert not {"expires", "cdn-cache-control"} & {name.lower() for name, _ in fields}
        assert ("X-Auth-Token" in (fields.get("vary") or "")) is (route is OWN)


@pytest.mark.parametrize(
    ("to_all", "expected"),
    [
        ("max-age=5", "private, max-age=3"),
        ("no-store", "private, no-store"),
        ("no-cache", "private, no-cache"),
        ("must-revalidate", "private, max-age=58, must-revalidate"),
    ],
)
def test_what_was_said_to_us_alone_gives_others_no_more(to_all: str, expected: str) -> None:
    """A targeted field lengthens the answer's life here, not at the callers'."""
    answer = an_answer(("CDN-Cache-Control", "max-age=60"), ("Cache-Control", to_all))
    assert present(answer, asks(), OWN, hit=True, now=NOW + 2).fields.get_all("cache-control") == [expected]


def test_as_it_came_means_so() -> None:
    """Where the upstream's `Vary` counts, so does all that it said."""
    lines = (("Cache-Control", "max-age=60"), ("Expires", "0"), ("Vary", "Foo"), ("X-Other", "1"))
    fields = present(an_answer(*lines), asks(), AS_IT_CAME, hit=False, now=NOW).fields
    assert tuple(fields) == lines


def test_an_answer_without_a_tag_gets_one() -> None:
    """A strong one, of its bytes; the upstream's own stays."""
    tag = f'"{compute_entity_tag(b"0123456789")}"'
    assert present(an_answer(), asks(), OWN, hit=True, now=NOW).fields.get_all("etag") == [tag]
    assert present(an_answer(("ETag", 'W/"x"')), asks(), OWN, hit=True, now=NOW).fields.get_all("etag") == ['W/"x"']
    got = present(an_answer(), asks(("If-None-Match", tag)), OWN, hit=True, now=NOW)
    assert (got.status, got.body, got.fields.get_all("etag")) == (304, b"", [tag])


def test_a_304_says_nothing_of_a_body() -> None:
    """RFC 9110 §15.4.5: what could be taken for the body's own is left out."""
    answer = an_answer(("ETag", '"a"'), ("Content-Type", "text/plain"), ("Date", "Thu, 01 Jan 2026 00:00:00 GMT"))
    got = present(answer, asks(("If-None-Match", '"a"')), OWN, hit=True, now=NOW)
    names = {name.lower() for name, _ in got.fields}
    assert {"etag", "cache-control", "vary", "age"} <= names
    assert "content-type" not in names


@pytest.mark.parametrize(("method", "status"), [("GET", 206), ("HEAD", 200)])
def test_a_range_is_for_get_alone(method: str, status: int) -> None:
    """RFC 9110 §14.2."""
    got = present(an_answer(), asks(("Range", "bytes=0-1"), method=method), OWN, hit=True, now=NOW)
    assert got.status == status


@pytest.mark.parametrize("lines", [[("If-None-Match", '"a"')], [("Range", "bytes=0-1")]])
def test_conditions_and_ranges_are_for_a_200(lines: list[tuple[str, str]]) -> None:
    """RFC 9110 §13.2.1: another status is given as it is."""
    got = present(an_answer(("ETag", '"a"'), status=404), asks(*lines), AS_IT_CAME, hit=True, now=NOW)
    assert (got.status, got.body) == (404, b"0123456789")


LONG = b"0123456789" * 100
OF_ITS_BYTES = f'"{compute_entity_tag(LONG)}-gzip"'


@pytest.mark.parametrize(
    ("lines", "asked", "coding"),
    [
        pytest.param([], ("Accept-Encoding", "gzip"), "gzip", id="what the caller accepts"),
        pytest.param([], ("Accept-Encoding", "gzip;q=0"), None, id="nothing that it does not"),
        pytest.param([], ("X", "y"), None, id="nor if it says nothing"),
        pytest.param([("Content-Encoding", "br")], ("Accept-Encoding", "gzip"), None, id="what is coded already"),
    ],
)
def test_a_coding_is_for_who_accepts_it(
    lines: list[tuple[str, str]], asked: tuple[str, str], coding: str | None
) -> None:
    """And for an answer that is long and as it was stored."""
    answer = an_answer(*lines, body=LONG)
    assert choose_coding_for(answer, asks(asked), OWN) == coding
    assert choose_coding_for(answer, asks(asked), AS_IT_CAME) is None
    assert choose_coding_for(answer, asks(asked, ("Range", "bytes=0-1")), OWN) is None
    assert choose_coding_for(an_answer(*lines, body=b"short"), asks(asked), OWN) is None
    assert choose_coding_for(an_answer(*lines, body=LONG, status=301), asks(asked), OWN) is None


@pytest.mark.parametrize(
    ("theirs", "expected"),
    [('"a"', '"a-gzip"'), ('W/"a"', 'W/"a-gzip"'), (None, OF_ITS_BYTES), ("a", OF_ITS_BYTES)],
)
def test_a_coded_answer_is_another_representation(theirs: str | None, expected: str) -> None:
    """It has a tag of its own, and says nothing of the bytes that it is not."""
    lines = [("Content-MD5", "x"), *([("ETag", theirs)] if theirs else [])]
    answer = an_answer(*lines, body=LONG)
    got = present(answer, asks(), OWN, hit=True, now=NOW, coding="gzip")
    assert (got.fields.get_all("etag"), got.fields.get_all("content-encoding")) == ([expected], ["gzip"])
    assert got.fields.get("content-md5") is None
    assert "Accept-Encoding" in (got.fields.get("vary") or "")
    known = present(answer, asks(("If-None-Match", expected)), OWN, hit=True, now=NOW, coding="gzip")
    assert (known.status, known.fields.get("content-encoding")) == (304, None)
    plain = present(answer, asks(("If-None-Match", expected)), OWN, hit=True, now=NOW)
    assert plain.status == 200
