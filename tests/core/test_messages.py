"""Fields, and what of them may cross a proxy."""

import pytest

from proxy.core.messages import HOP_BY_HOP, Fields, Request

FIELDS = Fields([("Accept", "a"), ("X-Two", "1"), ("x-two", "2"), ("ETag", "e")])


def test_names_compare_without_case_and_order_is_kept() -> None:
    """Every lookup takes any case, and lines keep order and spelling."""
    assert FIELDS.get_all("X-TWO") == ["1", "2"]
    assert FIELDS.get("etag") == "e"
    assert FIELDS.get("missing") is None
    assert list(FIELDS.without(["x-TWO"])) == [("Accept", "a"), ("ETag", "e")]
    assert list(FIELDS.select(["ACCEPT"])) == [("Accept", "a")]
    assert list(FIELDS.plus(("A", "b")))[-1] == ("A", "b")


def test_equal_lines_are_equal_fields() -> None:
    """Fields compare and hash by their lines."""
    assert Fields(list(FIELDS)) == FIELDS
    assert hash(Fields(list(FIELDS))) == hash(FIELDS)
    assert FIELDS.without(["accept"]) != FIELDS
    assert list(FIELDS) != FIELDS


def test_a_representation_shows_no_value() -> None:
    """Names only: a representation ends up in logs."""
    shown = repr(Request("GET", "/", Fields([("X-Auth-Token", "secret-token")]), "id"))
    assert "X-Auth-Token" in shown
    assert "secret-token" not in shown


@pytest.mark.parametrize("name", sorted(HOP_BY_HOP))
def test_hop_by_hop_fields_stay_on_their_connection(name: str) -> None:
    """None of RFC 9110 §7.6.1 crosses, in whatever case."""
    fields = Fields([(name.title(), "x"), (name.upper(), "y"), ("Kept", "z")])
    assert list(fields.end_to_end()) == [("Kept", "z")]


@pytest.mark.parametrize(
    ("connection", "crossing"),
    [
        pytest.param(["close"], ["X-One", "X-Two", "Kept"], id="an option that is no field"),
        pytest.param(["X-One"], ["X-Two", "Kept"], id="one"),
        pytest.param(["close, x-one ,X-TWO"], ["Kept"], id="a list in any case"),
        pytest.param(["X-One", "X-Two"], ["Kept"], id="two lines"),
        pytest.param([",, X-One,"], ["X-Two", "Kept"], id="empty elements"),
        pytest.param([""], ["X-One", "X-Two", "Kept"], id="nothing"),
    ],
)
def test_fields_named_by_connection_are_removed(connection: list[str], crossing: list[str]) -> None:
    """What `Connection` names is hop-by-hop too."""
    fields = Fields([*(("Connection", value) for value in connection), ("X-One", "1"), ("X-Two", "2"), ("Kept", "3")])
    assert [name for name, _ in fields.end_to_end()] == crossing


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/v2/images", "/v2/images", ""),
        ("/v2/images?", "/v2/images", ""),
        ("/v2/images?a=b?c", "/v2/images", "a=b?c"),
        ("/%3Fa?b", "/%3Fa", "b"),
    ],
)
def test_a_target_divides_at_its_first_question_mark(target: str, path: str, query: str) -> None:
    """Path and query are the raw text on both sides of it."""
    request = Request("GET", target, Fields(), "id")
    assert (request.path, request.query) == (path, query)
