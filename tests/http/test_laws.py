"""What holds whatever an upstream or a caller sends."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from proxy.core.freshness import Freshness
from proxy.core.messages import Fields, Request
from proxy.http.cache_control import MAX_DELTA_SECONDS, TARGETED_FIELDS, parse_response_directives
from proxy.http.dates import parse_http_date
from proxy.http.stored_response import FreshnessPolicy, freshness_lifetime_s
from proxy.resources.routes import ResourceRoute
from proxy.resources.serving import choose_coding_for, present
from proxy.resources.storability import is_selected_by, nominate_fields, unstorable_reason, vary_names
from tests.support.stored_responses import NOW, an_answer

NAMES = (
    *("Cache-Control", "CDN-Cache-Control", "Expires", "Date", "Age", "Last-Modified", "ETag", "Vary", "Set-Cookie"),
    *("Content-Encoding", "Content-Type", "Pragma"),
)
WORDS = st.sampled_from(
    (
        *("max-age=5", "s-maxage=9", "no-store", "private", "no-cache", "public", "must-revalidate"),
        *("stale-if-error=7", "0", "-1", "9" * 20, "Thu, 01 Jan 2026 00:01:40 GMT", "*", "Foo", '"a"', "W/"),
        *("=", ",", ";", " ", '"', "\\", "é"),
    )
)
TEXT = st.one_of(
    st.text(max_size=12),
    st.lists(WORDS, max_size=6).map("".join),
    st.lists(WORDS, max_size=4).map(", ".join),
)
LINES = st.lists(st.tuples(st.sampled_from(NAMES), TEXT), max_size=6)
ASKED = st.lists(
    st.tuples(
        st.sampled_from(["Range", "If-Range", "If-None-Match", "If-Modified-Since", "Accept-Encoding", "Foo"]),
        st.one_of(TEXT, st.sampled_from(["bytes=0-3", "bytes=-2", "bytes=8-", "gzip", "zstd;q=0.5, *"])),
    ),
    max_size=4,
)
OWN, VARY = (
    ResourceRoute("/a", FreshnessPolicy(60.0)),
    ResourceRoute("/a", FreshnessPolicy(60.0, 0.1), is_public=True, by_vary=True),
)


@given(TEXT)
def test_any_text_is_read(text: str) -> None:
    """A date and directives are made of it or not, and nothing fails."""
    moment = parse_http_date(text, now=NOW)
    assert moment is None or moment > -62135596801
    for name in ("Cache-Control", *TARGETED_FIELDS):
        lifetime_s = parse_response_directives(Fields([(name, text)])).max_age_s
        assert lifetime_s is None or 0 <= lifetime_s <= MAX_DELTA_SECONDS


@given(LINES, st.sampled_from([200, 204, 301, 404, 500, 599]), st.sampled_from([OWN, VARY]))
def test_a_lifetime_is_a_time(lines: list[tuple[str, str]], status: int, route: ResourceRoute) -> None:
    """Never negative, never longer than the longest, and nothing that must not be stored has use of it."""
    fields = Fields(lines)
    lifetime_s = freshness_lifetime_s(status, fields, route.policy, response_time=NOW)
    assert lifetime_s is None or 0 <= lifetime_s <= max(MAX_DELTA_SECONDS, 10**11)
    answer = an_answer(*lines, status=status, policy=route.policy)
    why_not = unstorable_reason(answer, stated=lifetime_s is not None, authorized=False, by_rfc=route.by_vary)
    said = parse_response_directives(fields)
    if (said.no_store and not said.must_understand) or said.private:
        assert why_not is not None
    assert answer.current_age_s(now=NOW) >= 0
    assert answer.freshness(route.policy, now=NOW + 10**12) is not Freshness.FRESH


@given(LINES)
def test_a_field_for_us_alone_decides_where_it_is_valid(lines: list[tuple[str, str]]) -> None:
    """And where it is not, it is as if it were not there (RFC 9213 \u00a72.2)."""
    fields = Fields(lines)
    said, without = parse_response_directives(fields), parse_response_directives(fields.without(TARGETED_FIELDS))
    assert said.is_targeted or said == without
    if said.is_targeted:
        assert said == parse_response_directives(fields.without(["cache-control"]))


@given(LINES, ASKED, st.sampled_from(["GET", "HEAD"]), st.sampled_from([OWN, VARY]))
def test_any_answer_can_be_given(
    lines: list[tuple[str, str]], asked: list[tuple[str, str]], method: str, route: ResourceRoute
) -> None:
    """Whole, in part, or as a 304; a part is a part of the whole; what is a caller's own is never said to be shared."""
    answer = replace(an_answer(*lines, policy=route.policy), body=b"0123456789" * 60)
    request = Request(method, "/a", Fields(asked), "id")
    coding = choose_coding_for(answer, request, route)
    got = present(answer, request, route, hit=True, now=NOW + 1, coding=coding)
    assert got.status in (200, 206, 304, 416)
    assert got.body in answer.body
    assert (got.status == 200) <= (got.body == answer.body)
    assert len(got.fields.get_all("age")) == 1
    if route is OWN:
        assert all(value.startswith("private, ") for value in got.fields.get_all("cache-control"))
        assert len(got.fields.get_all("etag")) == (got.status != 416)


@given(LINES, ASKED, ASKED)
def test_an_answer_is_selected_by_the_request_that_it_was_given_to(
    lines: list[tuple[str, str]], first: list[tuple[str, str]], second: list[tuple[str, str]]
) -> None:
    """And by another only if its nominated fields are the same."""
    names = vary_names(Fields(lines))
    answer = replace(an_answer(*lines), nominated=nominate_fields(Fields(first), names))
    assert is_selected_by(Fields(first), answer)
    assert is_selected_by(Fields(second), answer) is (nominate_fields(Fields(second), names) == answer.nominated)
