"""Callers' keys: read from a file, recognised by a field."""

from __future__ import annotations

import pytest

from proxy.auth.api_keys import ApiKeysError, find_api_key, parse_api_keys
from proxy.core.messages import Fields

KEY = "a-key-of-16-or-more"


def test_a_file_names_callers_and_who_may_write() -> None:
    """A table for each caller; without `allow_writes` it only reads."""
    reader, writer = parse_api_keys(f'[ci]\nkey = "{KEY}"\n[builder]\nkey = "{KEY}2"\nallow_writes = true')
    assert (reader.name, reader.may_write) == ("ci", False)
    assert (writer.name, writer.may_write) == ("builder", True)
    assert KEY not in repr((reader, writer))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[ci]",
        "ci = 1",
        f'[ci]\nkey = "{KEY}"\nwrite = true',
        f'[ci]\nkey = "{KEY}"\nallow_writes = "yes"',
        '[ci]\nkey = "short"',
        f'[ci]\nkey = "{KEY}\\n"',
        f'[ci]\nkey = "{KEY}é"',
        f'[ci]\nkey = "{KEY}"\n[cd]\nkey = "{KEY}"',
        f'[ci]\nkey = "{KEY}',
    ],
)
def test_a_file_that_can_not_be_used_is_refused_without_quoting_a_key(text: str) -> None:
    """What is wrong is said by the caller's name."""
    with pytest.raises(ApiKeysError) as refused:
        parse_api_keys(text)
    assert KEY not in str(refused.value)


def test_one_key_in_one_field_is_recognised() -> None:
    """Two keys, or a key beside another scheme, are nobody's."""
    known = parse_api_keys(f'[ci]\nkey = "{KEY}"')
    bearer, own, basic = ("Authorization", f"Bearer {KEY}"), ("X-Api-Key", KEY), ("Authorization", "Basic x")
    assert find_api_key(Fields([bearer]), known) == find_api_key(Fields([own]), known) == known[0]
    for lines in (
        [],
        [bearer, own],
        [own, own],
        [basic, own],
        [basic],
        [("X-Api-Key", KEY.upper())],
        [("X-Api-Key", "")],
    ):
        assert find_api_key(Fields(lines), known) is None
