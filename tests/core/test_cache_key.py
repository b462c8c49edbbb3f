"""Keys: what they hold can't be confused, whatever delimiters stand in it."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from proxy.core.cache_key import ALL_TAG, CacheKey, digest, listing_tag, partition_tag
from proxy.core.list_query import Window
from proxy.core.partition import Partition

_PARTS = st.lists(st.text(st.sampled_from("01:;,\0ab%&é\udcff"), max_size=6), max_size=5).map(tuple)
_KEY = CacheKey(Partition("token", "aa" * 16), "Q", "/v2/images", "name=n")


@given(_PARTS, _PARTS)
def test_no_delimiter_can_be_forged(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    """Digests are equal exactly where the parts are."""
    assert (digest(one) == digest(other)) == (one == other)


@given(st.text("0123456789:ab", max_size=20), st.integers(0, 20))
def test_moving_a_boundary_changes_the_digest(text: str, at: int) -> None:
    """The same characters cut at another place are other parts."""
    cut = (text[:at], text[at:])
    assert digest(cut) != digest((text,))
    assert digest(cut) != digest((*cut, ""))


def test_every_part_of_a_key_counts() -> None:
    """Changing partition, variant, path, query or page makes another key."""
    others = [
        replace(_KEY, partition=Partition("token", "bb" * 16)),
        replace(_KEY, partition=Partition("project", "aa" * 16)),
        replace(_KEY, variant=""),
        replace(_KEY, path="/v2/cloudimages"),
        replace(_KEY, query=""),
        replace(_KEY, page_window=Window()),
        replace(_KEY, page_window=Window(1)),
        replace(_KEY, page_window=Window(1, "m")),
        replace(_KEY, page_window=Window(None, "1")),
    ]
    assert len({_KEY.digest, *(other.digest for other in others)}) == len(others) + 1


def test_equal_keys_have_equal_digests() -> None:
    """A key built again is the same key."""
    assert replace(_KEY) == _KEY
    assert replace(_KEY).digest == _KEY.digest


def test_a_key_is_touched_by_its_partition_its_listing_and_everything() -> None:
    """The widest scope comes first; keys of other partitions and other listings share no other."""
    assert _KEY.tags[0] == ALL_TAG
    assert partition_tag(_KEY.partition) in _KEY.tags
    assert listing_tag(_KEY.path, _KEY.query) in _KEY.tags
    other = replace(_KEY, partition=Partition("token", "bb" * 16))
    assert set(replace(other, query="").tags) & set(_KEY.tags) == {ALL_TAG}
    assert set(other.tags) & set(_KEY.tags) == {ALL_TAG, listing_tag(_KEY.path, _KEY.query)}


def test_a_scope_shows_no_query() -> None:
    """Scopes stand in keys of the store, so the filters in them are digested."""
    key = replace(_KEY, query="name=payroll")
    assert not any("payroll" in scope for scope in key.tags)
