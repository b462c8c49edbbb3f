"""Reading a query string the way Glance does."""

import pytest

from proxy.demo.query import ImsError, ListQuery, SortKey, parse_list_query, parse_query_pairs


def parsed(raw: str) -> ListQuery:
    return parse_list_query(parse_query_pairs(raw), default_limit=25, max_limit=1000)


@pytest.mark.parametrize(
    ("raw", "pairs"),
    [
        pytest.param("", [], id="nothing"),
        pytest.param("a=1&b=2", [("a", "1"), ("b", "2")], id="ampersand"),
        pytest.param("a=1;b=2", [("a", "1"), ("b", "2")], id="semicolon separates too"),
        pytest.param("a=1%3Bb=2", [("a", "1;b=2")], id="an encoded semicolon does not"),
        pytest.param("&;a=1&&", [("a", "1")], id="empty pieces vanish"),
        pytest.param("tag=a=b", [("tag", "a=b")], id="split at the first equals sign"),
        pytest.param("name", [("name", "")], id="no equals sign is an empty value"),
        pytest.param("a=x+y%20z%2B", [("a", "x y z+")], id="plus is a space"),
        pytest.param("%5F%5Fimagetype=gold", [("__imagetype", "gold")], id="names are decoded"),
        pytest.param("name=%E9%BB%84", [("name", "黄")], id="utf-8"),
        pytest.param("a=1&a=2", [("a", "1"), ("a", "2")], id="repetitions stay"),
        pytest.param("a=100%", [("a", "100%")], id="a lone percent sign is itself"),
    ],
)
def test_pairs_keep_order_and_repetitions(raw: str, pairs: list[tuple[str, str]]) -> None:
    """A query is divided, decoded and kept as Glance does it."""
    assert parse_query_pairs(raw) == pairs


@pytest.mark.parametrize("raw", ["name=%FF", "%FF=a", "name=\udcff"])
def test_bytes_that_are_not_utf_8_are_refused(raw: str) -> None:
    """A name or a value that is not UTF-8 is answered 400."""
    with pytest.raises(ImsError) as caught:
        parse_query_pairs(raw)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("raw", "limit"),
    [
        pytest.param("", 25, id="default"),
        pytest.param("limit=0", 0, id="zero"),
        pytest.param("limit=7", 7, id="as asked"),
        pytest.param("limit=5000", 1000, id="clamped"),
        pytest.param("limit=%2B1", 1, id="a sign passes"),
        pytest.param("limit=1_0", 10, id="an underscore passes"),
        pytest.param("limit=3&limit=x", 3, id="the first of two"),
    ],
)
def test_limit(raw: str, limit: int) -> None:
    """A limit is read as Python reads a number, and is never more than the longest page."""
    assert parsed(raw).limit == limit


@pytest.mark.parametrize(
    ("raw", "sort"),
    [
        pytest.param("", "-created_at -id", id="default"),
        pytest.param("sort_dir=asc", "+created_at +id", id="a direction alone"),
        pytest.param("sort_key=name", "-name -created_at -id", id="descending unless told"),
        pytest.param("sort_key=name&sort_dir=asc", "+name +created_at +id", id="one direction serves the completion"),
        pytest.param("sort_key=name&sort_key=size&sort_dir=asc", "+name +size +created_at +id", id="and every key"),
        pytest.param(
            "sort_key=name&sort_key=size&sort_dir=asc&sort_dir=desc",
            "+name -size -created_at -id",
            id="two directions complete descending",
        ),
        pytest.param("sort_dir=asc&sort_key=id", "+id +created_at", id="id may stand before created_at"),
        pytest.param("sort=name:asc,size", "+name -size -created_at -id", id="the newer spelling"),
        pytest.param("sort=name:asc", "+name +created_at +id", id="the newer spelling with one key"),
        pytest.param("sort=+name+:+asc+", "+name +created_at +id", id="spaces are trimmed"),
    ],
)
def test_the_order_is_completed(raw: str, sort: str) -> None:
    """`created_at` and `id` complete the sort keys to a total order."""
    assert parsed(raw).sort == tuple(SortKey(key[1:], key[0] == "-") for key in sort.split())


@pytest.mark.parametrize(
    "raw",
    [
        "limit=",
        "limit=abc",
        "limit=1.0",
        "limit=-1",
        "sort_key=create_at",
        "sort_key=",
        "sort_key=min_ram",
        "sort_dir=ASC",
        "sort_key=name&sort_dir=asc&sort_dir=desc",
        "sort=name:asc&sort_key=name",
        "sort=name:asc&sort_dir=asc",
        "sort=name:up",
        "sort=",
        "member_status=accept",
        "member_status=",
        "visibility=hidden",
        "visibility=public&visibility=hidden",
        "changes-since=2025-01-01",
    ],
)
def test_refused(raw: str) -> None:
    """What Glance refuses in a query is answered 400."""
    with pytest.raises(ImsError) as caught:
        parsed(raw)
    assert caught.value.status == 400


def test_what_is_no_filter_is_taken_out() -> None:
    """Window, order and tags are no filters, and of a filter given twice the last counts."""
    query = parsed(
        "limit=1&marker=m&member_status=all&tag=+b+&tag=a&sort_key=name&sort_dir=asc&deleted=true&name=n&name=o"
    )
    assert query.filters == {"name": "o"}
    assert query.tags == ("b", "a")
    assert (query.marker, query.member_status) == ("m", "all")


def test_of_two_visibilities_the_second_is_a_filter_besides() -> None:
    """The first of two visibilities selects, and the second filters what that selects."""
    query = parsed("visibility=shared&visibility=public")
    assert (query.visibility, query.filters) == ("shared", {"visibility": "public"})


@pytest.mark.parametrize("name", ["limit", "marker", "member_status", "sort"])
def test_what_is_repeated_becomes_a_filter(name: str) -> None:
    """The second value of a parameter that is taken once is compared as a property."""
    value = {"member_status": "all", "sort": "name"}.get(name, "1")
    assert parsed(f"{name}={value}&{name}={value}").filters == {name: value}
