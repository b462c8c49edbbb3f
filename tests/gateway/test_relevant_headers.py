"""Which fields of a request count before anything is sent upstream."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.messages import Fields, Request
from proxy.gateway.relevant_headers import RELEVANT_FIELDS, with_relevant_fields

names = st.sampled_from([*sorted(RELEVANT_FIELDS - {"authorization"}), "user-agent", "x-trace", "host", "x-project-id"])


def request(*lines: tuple[str, str]) -> Request:
    """Return a list request with these field lines."""
    return Request("GET", "/v2/images", Fields(lines), request_id="r")


@given(st.lists(st.tuples(names.flatmap(lambda name: st.sampled_from([name, name.title()])), st.text(max_size=3))))
def test_only_those_that_count(lines: list[tuple[str, str]]) -> None:
    """What counts stays as it came, in order, and nothing else does."""
    kept = with_relevant_fields(request(*lines))
    assert list(kept.fields) == [line for line in lines if line[0].lower() in RELEVANT_FIELDS]
    assert with_relevant_fields(kept) == kept


@pytest.mark.parametrize(
    ("authorization", "all_of_them"),
    [
        pytest.param("Bearer key", False, id="a key"),
        pytest.param("bearer key", False, id="the scheme's case does not matter"),
        pytest.param("SDK-HMAC-SHA256 Access=a, SignedHeaders=user-agent, Signature=0", True, id="a signature"),
        pytest.param("Bearer", True, id="a scheme without anything"),
        pytest.param("Negotiate x", True, id="an unknown scheme"),
    ],
)
def test_signed(authorization: str, all_of_them: bool) -> None:
    """A signature may cover any field, so then each counts."""
    asked = request(("Authorization", authorization), ("User-Agent", "agent"))
    assert (with_relevant_fields(asked) == asked) is all_of_them
