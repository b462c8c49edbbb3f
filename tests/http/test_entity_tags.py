"""Entity tags, and `If-None-Match` (RFC 9110 §8.8.3, §13.1.2)."""

import pytest

from proxy.http.conditional import compute_entity_tag, is_matched_by

TAG = '"abc"'


@pytest.mark.parametrize(
    ("values", "matches"),
    [
        pytest.param([], False, id="no field"),
        pytest.param([""], False, id="an empty field"),
        pytest.param(['"abc"'], True, id="the tag"),
        pytest.param(['W/"abc"'], True, id="compared weakly"),
        pytest.param(['"x", "abc"'], True, id="in a list"),
        pytest.param(['"x"', '"abc"'], True, id="in a second line"),
        pytest.param(['"x","abc" ,"y"'], True, id="in a list without spaces"),
        pytest.param(["*"], True, id="anything"),
        pytest.param([" * "], True, id="anything, with spaces"),
        pytest.param(['"x"'], False, id="another tag"),
        pytest.param(["abc"], False, id="without quotes"),
        pytest.param(['"ABC"'], False, id="case counts"),
        pytest.param(['"abc-gzip"'], False, id="of another coding"),
        pytest.param(['"abc'], False, id="cut short"),
        pytest.param(['"x,abc,y"'], False, id="inside another tag"),
        pytest.param(['"*"'], False, id="a tag of one star"),
    ],
)
def test_if_none_match_names_the_tag(values: list[str], *, matches: bool) -> None:
    """The tag has to stand there whole and quoted, or a star alone."""
    assert is_matched_by(values, TAG) is matches


def test_a_tag_stands_for_the_bytes() -> None:
    """Equal bodies have equal tags, others don't, and a tag has no character that would end it."""
    assert compute_entity_tag(b"a") == compute_entity_tag(b"a")
    assert compute_entity_tag(b"a") != compute_entity_tag(b"b")
    assert compute_entity_tag(b"").isalnum()
