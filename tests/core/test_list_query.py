"""What a raw query turns into: the rules one by one, and every reason why there is no canonical form."""

import pytest

from proxy.core.list_query import ListQuery, SortOrder, UnclearQuery, Window, describe_normalisation, parse_list_query


def clear(raw: str) -> ListQuery:
    query = parse_list_query(raw)
    assert isinstance(query, ListQuery), query
    return query


@pytest.mark.parametrize(
    ("raw", "canonical"),
    [
        pytest.param("", "", id="nothing asked"),
        pytest.param("visibility=public&__imagetype=gold", "__imagetype=gold&visibility=public", id="names ordered"),
        pytest.param("tag=b&tag=a", "tag=a&tag=b", id="tags all match, so their order says nothing"),
        pytest.param("tag=a&tag=a", "tag=a&tag=a", id="a tag asked for twice stays twice"),
        pytest.param("name=b&name=a", "name=b&name=a", id="of a repeated filter the last wins, so order stays"),
        pytest.param("x=2&tag=b&x=1&tag=a", "tag=a&tag=b&x=2&x=1", id="unknown names are filters, their order stays"),
        pytest.param(
            "sort_key=name&sort_key=id&sort_dir=asc", "sort_dir=asc&sort_key=name&sort_key=id", id="sort keys keep rank"
        ),
        pytest.param("name=a+b", "name=a%20b", id="a plus is a space"),
        pytest.param("name=a%2Bb", "name=a%2Bb", id="an escaped plus is a plus"),
        pytest.param("name=%e9%95%9c", "name=%E9%95%9C", id="hex is upper-case"),
        pytest.param("name=%61%2d%7E", "name=a-~", id="what need not be escaped is not"),
        pytest.param("%5F%5Fimagetype=gold", "__imagetype=gold", id="names are decoded too"),
        pytest.param("name=%2541", "name=%2541", id="decoded once"),
        pytest.param("tag=a=b", "tag=a%3Db", id="split at the first equals sign only"),
        pytest.param("tag==", "tag=%3D", id="a value of one equals sign"),
        pytest.param("name=a%26limit%3D1", "name=a%26limit%3D1", id="an escaped delimiter stays inside its value"),
        pytest.param("name=R%26D%3B", "name=R%26D%3B", id="an escaped semicolon divides nothing"),
        pytest.param("name=/v2/images?x", "name=%2Fv2%2Fimages%3Fx", id="slashes and question marks are escaped"),
        pytest.param("name=", "name=", id="an empty value is no absent one"),
        pytest.param("name=%20Web%20", "name=%20Web%20", id="values are neither trimmed nor folded"),
        pytest.param("Visibility=public", "Visibility=public", id="names are not folded"),
        pytest.param("&&a=1&&b=2&", "a=1&b=2", id="empty pieces say nothing"),
        pytest.param("limit=2&marker=m&name=n", "name=n", id="limit and marker are the window"),
        pytest.param("LIMIT=2", "LIMIT=2", id="another spelling of limit is a filter"),
        pytest.param("container_format=bare&__isregistered=true", "__isregistered=true&container_format=bare"),
        pytest.param(
            "created_at=gte:2025-01-01 00:00:00".replace(" ", "+"), "created_at=gte%3A2025-01-01%2000%3A00%3A00"
        ),
    ],
)
def test_a_query_has_one_spelling(raw: str, canonical: str) -> None:
    """Each rule of normalisation turns a query into its canonical form."""
    assert clear(raw).canonical == canonical


@pytest.mark.parametrize(
    ("raw", "canonical"),
    [
        pytest.param("sort_key=created_at", "", id="the key"),
        pytest.param("sort_dir=desc", "", id="the direction"),
        pytest.param("sort_dir=desc&sort_key=created_at", "", id="both"),
        pytest.param("sort_key=created_at&sort_dir=asc", "sort_dir=asc", id="the key beside another direction"),
        pytest.param("sort_key=name&sort_dir=desc", "sort_key=name", id="the direction beside another key"),
        pytest.param("sort_key=create_at", "sort_key=create_at", id="old pages' misprint is no default"),
        pytest.param("sort_dir=DESC", "sort_dir=DESC", id="another spelling is no default"),
        pytest.param("sort_key=", "sort_key=", id="an empty key is no default"),
        pytest.param(
            "sort_key=created_at&sort_key=name", "sort_key=created_at&sort_key=name", id="one of several keys stays"
        ),
        pytest.param(
            "sort_key=name&sort_key=created_at&sort_dir=desc",
            "sort_dir=desc&sort_key=name&sort_key=created_at",
            id="a direction for several keys stays",
        ),
        pytest.param("sort_dir=desc&sort_dir=desc", "sort_dir=desc&sort_dir=desc", id="two directions stay"),
        pytest.param("sort=name&sort_dir=desc", "sort=name&sort_dir=desc", id="beside sort it is an error upstream"),
        pytest.param("sort=created_at:desc", "sort=created_at%3Adesc", id="sort itself has no default"),
    ],
)
def test_only_the_defaults_of_the_query_are_dropped(raw: str, canonical: str) -> None:
    """A spelt-out default goes where leaving it out says the same, and stays where it does not."""
    assert clear(raw).canonical == canonical


@pytest.mark.parametrize(
    ("raw", "window"),
    [
        pytest.param("", Window(), id="neither"),
        pytest.param("limit=25", Window(25), id="a limit that is the default is still one that was sent"),
        pytest.param("limit=0", Window(0), id="no rows"),
        pytest.param("limit=007", Window(7), id="leading zeros"),
        pytest.param("limit=%31%30", Window(10), id="escaped digits"),
        pytest.param("limit=999999999999999999", Window(999_999_999_999_999_999), id="eighteen digits"),
        pytest.param("marker=a%2Fb+c", Window(None, "a/b c"), id="a marker is decoded"),
        pytest.param("marker=" + "m" * 255, Window(None, "m" * 255), id="the longest marker"),
        pytest.param("name=x&limit=1&tag=y&marker=z", Window(1, "z"), id="both, among filters"),
    ],
)
def test_the_window_is_taken_out(raw: str, window: Window) -> None:
    """Limit and marker become numbers and text of the window."""
    assert clear(raw).window == window


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        pytest.param("limit=1;marker=x", "semicolon", id="a raw semicolon"),
        pytest.param("name=é", "escape", id="a raw letter beyond ASCII"),
        pytest.param("name=%", "escape", id="a lone percent sign"),
        pytest.param("name=%4", "escape", id="half an escape"),
        pytest.param("name=%zz", "escape", id="an escape that is none"),
        pytest.param("name=%FF", "not-utf-8", id="a byte that is no UTF-8"),
        pytest.param("%C3=x", "not-utf-8", id="a name cut inside a letter"),
        pytest.param("name=%ED%A0%80", "not-utf-8", id="a surrogate"),
        pytest.param("name", "no-value", id="no equals sign"),
        pytest.param("a=1&limit", "no-value", id="no equals sign, later"),
        pytest.param("=x", "no-name", id="no name"),
        pytest.param("name=%00", "control-character", id="NUL"),
        pytest.param("name=a%0D%0Ab", "control-character", id="CR LF"),
        pytest.param("na%09me=a", "control-character", id="a tab in a name"),
        pytest.param("name=%7F", "control-character", id="DEL"),
        pytest.param("limit=1&limit=1", "two-limits", id="two limits, even equal ones"),
        pytest.param("limit=1&%6Cimit=2", "two-limits", id="two limits, one disguised"),
        pytest.param("marker=a&marker=b", "two-markers", id="two markers"),
        pytest.param("limit=", "limit", id="an empty limit"),
        pytest.param("limit=ten", "limit", id="a word"),
        pytest.param("limit=-1", "limit", id="a negative limit"),
        pytest.param("limit=%2B1", "limit", id="a sign, which Glance takes"),
        pytest.param("limit=+1", "limit", id="a space before it"),
        pytest.param("limit=1_0", "limit", id="an underscore, which Glance takes"),
        pytest.param("limit=1.0", "limit", id="a fraction"),
        pytest.param("limit=%D9%A1", "limit", id="a digit of another script"),
        pytest.param("limit=1%0A", "control-character", id="a line end after it"),
        pytest.param("limit=" + "1" * 19, "limit", id="nineteen digits"),
        pytest.param("marker=", "marker", id="an empty marker"),
        pytest.param("marker=" + "m" * 256, "marker", id="a marker beyond 255 characters"),
    ],
)
def test_what_may_mean_two_things_is_unclear(raw: str, reason: str) -> None:
    """A query that can't be understood safely says why."""
    assert parse_list_query(raw) == UnclearQuery(reason)


@pytest.mark.parametrize(
    ("raw", "keys", "windowed", "immovable"),
    [
        pytest.param("", ("created_at",), True, True, id="the default"),
        pytest.param("sort_dir=asc", ("created_at",), True, True, id="the other direction"),
        pytest.param("sort_key=id", ("id",), True, True, id="by id"),
        pytest.param("sort_key=created_at&sort_key=id", ("created_at", "id"), True, True, id="both that never move"),
        pytest.param("sort=created_at:asc,id:desc", ("created_at", "id"), True, True, id="in one parameter"),
        pytest.param("sort_key=name", ("name",), True, False, id="a name may change"),
        pytest.param("sort_key=updated_at", ("updated_at",), True, False, id="an update may come"),
        pytest.param("sort=status:asc,name:desc", ("status", "name"), True, False, id="two that may change"),
        pytest.param("sort_key=created_at&sort_key=name", ("created_at", "name"), True, False, id="one that may"),
        pytest.param("sort_key=size", ("size",), False, False, id="a size may be null"),
        pytest.param("sort_key=name&sort_key=size", ("name", "size"), False, False, id="one of two may be null"),
        pytest.param("sort_key=__os_type", ("__os_type",), False, False, id="an unknown key"),
        pytest.param("sort_key=Name", ("Name",), False, False, id="another case"),
        pytest.param("sort_key=", ("",), False, False, id="an empty key"),
        pytest.param("sort=", ("",), False, False, id="an empty sort"),
        pytest.param("sort=name&sort_key=id", ("",), False, False, id="sort beside a key"),
        pytest.param("sort=name&sort_dir=asc", ("",), False, False, id="sort beside a direction"),
        pytest.param("sort=name&sort=id", ("",), False, False, id="sort twice"),
    ],
)
def test_the_order_says_how_pages_may_be_cut(
    raw: str, keys: tuple[str, ...], *, windowed: bool, immovable: bool
) -> None:
    """Windows are cut only in orders that are total, and joined only where images never move."""
    sort = clear(raw).sort
    assert (sort, sort.has_total_order, sort.is_stable) == (SortOrder(keys), windowed, immovable)


def test_keys_that_an_image_may_lack_are_named() -> None:
    """Name and formats may be null; status and times may not."""
    assert clear("sort=status,name,created_at,disk_format").sort.nullable_keys == ("name", "disk_format")


def test_notes_tell_a_person_what_was_normalised() -> None:
    """Dropped defaults, a changed order and other escapes are each told once."""
    notes = describe_normalisation("visibility=public&sort_dir=desc&name=a+b")
    assert len(notes) == 3
    assert notes[0] == "sort_dir=desc is the default of the query"
    assert describe_normalisation("name=a&visibility=public&limit=3") == ()
