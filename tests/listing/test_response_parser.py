"""An upstream's answer becomes a span, or says why not."""

import time
from collections.abc import Iterator
from math import inf

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.slices import SliceLimits, run_to_end
from proxy.listing.response_parser import NotAList, ParsedList, parse_list, read_list_in_slices


def a_list(*images: object, **around: object) -> bytes:
    return orjson.dumps({"images": list(images), **around})


def held(body: bytes) -> ParsedList:
    made = parse_list(body)
    assert isinstance(made, ParsedList), made
    return made


def slices(made: ParsedList) -> list[bytes]:
    return [made.body[start:end] for start, end in zip(made.starts, made.ends, strict=True)]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param(b"", "not-a-list", id="nothing"),
        pytest.param(b"<html>502</html>", "not-a-list", id="a page"),
        pytest.param(b"null", "not-a-list", id="null"),
        pytest.param(b"[]", "not-a-list", id="an array"),
        pytest.param(b'"images"', "not-a-list", id="a string"),
        pytest.param(b"7", "not-a-list", id="a number"),
        pytest.param(b"{}", "not-a-list", id="no images"),
        pytest.param(b'{"error":{"message":"no","code":"IMG.0024"}}', "not-a-list", id="an error that says 200"),
        pytest.param(b'{"images":null}', "not-a-list", id="images null"),
        pytest.param(b'{"images":"ab"}', "not-a-list", id="images a string"),
        pytest.param(b'{"images":{"id":"a"}}', "not-a-list", id="images an object"),
        pytest.param(b'{"images":[null]}', "not-a-list", id="an image null"),
        pytest.param(b'{"images":[{"id":"a"}', "not-a-list", id="cut short"),
        pytest.param(b'{"images":[{"id":"a"}]}x', "not-a-list", id="more behind it"),
        pytest.param(b'\xef\xbb\xbf{"images":[]}', "not-a-list", id="a byte-order mark"),
        pytest.param(b'{"images":[{"id":"\xff"}]}', "not-a-list", id="no UTF-8"),
        pytest.param(b'{"images":[{"id":"a","size":NaN}]}', "not-a-list", id="not quite JSON"),
        pytest.param(
            b'{"images":[{"id":"a"}],"im\\u0061ges":[{"id":"b"}]}', "not-a-list", id="images in two spellings"
        ),
        pytest.param(b'{"images":[],"im\\u0061ges":7}', "not-a-list", id="a number under images' other spelling"),
        pytest.param(a_list({"name": "n"}), "ids", id="an image without id"),
        pytest.param(a_list({"id": ""}), "ids", id="an empty id"),
        pytest.param(a_list({"id": 7}), "ids", id="a number for an id"),
        pytest.param(a_list({"id": "a"}, {"id": "a"}), "ids", id="one id twice"),
        pytest.param(a_list(next="/v2/images"), "next", id="a link that leads nowhere from an empty page"),
    ],
)
def test_what_is_no_list_says_why(body: bytes, reason: str) -> None:
    """A body that can't be cut into images safely is no span."""
    assert parse_list(body) == NotAList(reason)


def test_an_empty_list_is_the_end() -> None:
    """No images and no link is a span without images that ends the listing."""
    made = held(b'{"images": []}')
    assert (made.ids, made.next_marker, made.body, list(made.starts)) == ((), None, b"", [])


@pytest.mark.parametrize(
    ("link", "end"),
    [
        pytest.param("/v2/images?marker=m", "m", id="as published"),
        pytest.param("/v2/images?limit=2&marker=m&name=n", "m", id="among others"),
        pytest.param("https://evil.example/v2/images?marker=m", "m", id="a foreign host is nobody's business"),
        pytest.param("//evil.example?marker=m", "m", id="a foreign authority"),
        pytest.param("http://[/?marker=m", "m", id="an authority that can not be one"),
        pytest.param("javascript:alert(1)?marker=m", "m", id="another scheme"),
        pytest.param("?marker=m", "m", id="only a query"),
        pytest.param("/v2/images?marker=a%2Fb+c%C3%A9", "a/b cé", id="escaped"),
        pytest.param("/v2/images?marker=hidden-row", "hidden-row", id="not the id of an image shown"),
        pytest.param("/v2/images", "b", id="no marker: after the last image"),
        pytest.param("", "b", id="an empty link"),
        pytest.param("/v2/images?marker=", "b", id="an empty marker"),
        pytest.param("/v2/images?marker=x&marker=y", "b", id="two markers"),
        pytest.param("/v2/images?marker=%FF", "b", id="a marker that is no UTF-8"),
        pytest.param("/v2/images?marker=a%0D%0Ab", "b", id="CR LF in a marker"),
        pytest.param("/v2/images?marker=a%00", "b", id="NUL in a marker"),
        pytest.param("/v2/images?marker=" + "m" * 256, "b", id="a marker that no caller could send"),
        pytest.param("/v2/images#?marker=m", "b", id="a marker in the fragment"),
        pytest.param(7, "b", id="a number"),
        pytest.param(["/v2/images?marker=m"], "b", id="an array"),
        pytest.param({}, "b", id="an object"),
        pytest.param(None, None, id="null is the end"),
    ],
)
def test_only_the_marker_of_next_is_read(link: object, end: str | None) -> None:
    """Of the upstream's link nothing but a usable marker counts; without one the list goes on after its last image."""
    assert held(a_list({"id": "a"}, {"id": "b"}, next=link)).next_marker == end


def test_absence_of_next_is_the_end() -> None:
    """A list without a link ends the listing, full or not."""
    assert held(a_list({"id": "a"})).next_marker is None


def test_a_page_may_be_empty_and_go_on() -> None:
    """Where a policy hid every row, the marker of next still leads on."""
    made = held(a_list(next="/v2/images?marker=m"))
    assert (made.ids, made.next_marker) == ((), "m")


def test_bytes_are_kept_as_they_came() -> None:
    """Spacing, key order, escapes and number spellings of an image survive."""
    first = b'{ "z":1.50, "id" :"a", "big":123456789012345678901234567890, "name":"\\u00e9\\/" }'
    second = b'{"id":"b"}'
    made = held(b'{"first":"/v2/images","images":[ ' + first + b" ,\n" + second + b" ]}")
    assert slices(made) == [first, second]
    assert made.ids == ("a", "b")


@pytest.mark.parametrize(
    "link",
    [
        "https://evil.example/v2/images/a",
        "//evil.example/x",
        "/\\evil.example",
        "javascript:alert(1)",
        "\r\n/v2/images/a",
        "/v2/images/a\r\nSet-Cookie: x",
        "relative/path",
        "",
        "/v2/images/\u202e",
    ],
)
@pytest.mark.parametrize("name", ["self", "file", "schema"])
def test_links_of_an_image_lead_home(name: str, link: str) -> None:
    """A link of an image's own that leads elsewhere is replaced by the API's; nothing else of it changes."""
    image = {"id": "a", "name": "n", name: link, "size": None}
    own = {"self": "/v2/images/a", "file": "/v2/images/a/file", "schema": "/v2/schemas/image"}
    made = held(a_list({"id": "x"}, image, {"id": "y"}))
    assert list(map(orjson.loads, slices(made))) == [{"id": "x"}, image | {name: own[name]}, {"id": "y"}]
    assert list(orjson.loads(slices(made)[1])) == list(image)


@pytest.mark.parametrize(
    "image",
    [
        {"id": "a", "name": "http://evil.example/", "__description": "//evil.example and javascript:x"},
        {"id": "a", "self": "/v2/images/a", "file": "/v2/images/a/file", "schema": "/v2/schemas/image"},
        {"id": "a", "file": None},
        {"id": "a", "tags": ["https://evil.example"], "nested": {"self": "https://evil.example"}},
    ],
    ids=["text that looks like a link", "links of the API", "a link that is null", "words further in"],
)
def test_what_is_no_foreign_link_is_left_alone(image: dict[str, object]) -> None:
    """Text is no link, however it looks, and relative links stay as they are."""
    body = orjson.dumps(image)
    assert slices(held(b'{"images":[%b]}' % body)) == [body]


@pytest.mark.parametrize(
    ("status", "transient"),
    [
        ("active", False),
        ("queued", True),
        ("saving", True),
        ("importing", True),
        ("uploading", True),
        ("pending_delete", True),
        ("killed", False),
        (None, False),
        (7, False),
        (["saving"], False),
        ({}, False),
    ],
)
def test_transient_images_are_noticed(status: object, *, transient: bool) -> None:
    """A list is transient where an image in it is about to change, and an odd status is none of these."""
    made = held(a_list({"id": "a", "status": "active"}, {"id": "b", "status": status}))
    assert (made.transient_since is not None) is transient


@pytest.mark.parametrize(
    ("times", "since"),
    [
        pytest.param({"updated_at": "1970-01-01T00:01:00Z", "created_at": "1970-01-01T00:00:05Z"}, 60.0, id="updated"),
        pytest.param({"updated_at": None, "created_at": "1970-01-01T00:00:05Z"}, 5.0, id="only created"),
        pytest.param({"created_at": "1970-01-01T02:00:05+02:00"}, 5.0, id="with an offset"),
        pytest.param({"created_at": "1970-01-01T00:00:05"}, 5.0, id="without one it is UTC"),
        pytest.param({"created_at": "1970-01-01 00:00:05"}, 5.0, id="with a space"),
        pytest.param({"created_at": "yesterday"}, inf, id="no time"),
        pytest.param({"created_at": 5}, inf, id="a number"),
        pytest.param({"created_at": "0001-01-01T00:00:00+14:00"}, 1.0, id="before time began, so another's is later"),
        pytest.param({"created_at": "0001-01-01T00:00:00"}, 1.0, id="before time began, without an offset"),
        pytest.param({"updated_at": ["1970-01-01T00:01:00Z"]}, inf, id="an array"),
        pytest.param({}, inf, id="nothing"),
    ],
)
def test_since_when_an_image_is_about_to_change_is_read(times: dict[str, object], since: float) -> None:
    """The time of its last change counts; where it can't be told it might have been just now."""
    oldest = {"id": "x", "status": "queued", "created_at": "1970-01-01T00:00:01Z"}
    settled = {"id": "y", "status": "active", "created_at": "2025-01-01T00:00:00Z"}
    assert held(a_list(oldest, {"id": "a", "status": "saving", **times}, settled)).transient_since == since


@pytest.fixture
def far_from_greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the machine's own time zone be another."""
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


def test_the_machine_s_time_zone_says_nothing(far_from_greenwich: None) -> None:
    """A time without an offset is UTC wherever the proxy runs."""
    image = {"id": "a", "status": "saving", "created_at": "1970-01-01T00:00:05"}
    assert held(a_list(image)).transient_since == 5.0


def test_nulls_in_a_sort_key_are_noticed() -> None:
    """An image without a value for a sort key, or with null, makes the list one that can't be cut."""
    body = a_list({"id": "a", "name": "n"}, {"id": "b"}, {"id": "c", "name": None})
    for keys, nulls in (((), False), (("id",), False), (("name",), True), (("id", "disk_format"), True)):
        made = parse_list(body, sort_keys=keys)
        assert isinstance(made, ParsedList)
        assert made.has_nulls is nulls


def test_a_list_becomes_a_span() -> None:
    """The span says what it was asked for, and what came."""
    made = held(a_list({"id": "a"}, {"id": "b"}, next="/v2/images?marker=m"))
    span = made.to_span(marker="", limit=2, without_next=False, fetched_at=5.0, lifetime_s=60.0, generation="g")
    assert (span.marker, span.next_marker, span.ids, span.limit) == ("", "m", ("a", "b"), 2)
    assert (span.fetched_at, span.lifetime_s, span.generation, span.without_next) == (5.0, 60.0, "g", False)


@pytest.mark.parametrize(("ids", "end"), [((), None), (("a", "b"), "b")])
def test_a_list_without_links_ends_only_where_it_is_empty(ids: tuple[str, ...], end: str | None) -> None:
    """Of `/v2/cloudimages` a page with images goes on after the last of them."""
    made = held(a_list(*({"id": image_id} for image_id in ids)))
    assert made.to_span(marker="", limit=9, without_next=True, fetched_at=0.0, lifetime_s=1.0).next_marker == end


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(0, 9) | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["images", "next", "id", "status", "self"]), inner, max_size=4)
        ),
    )
)
def test_any_json_is_a_list_or_says_why_not(document: object) -> None:
    """No JSON makes the reading fail."""
    made = parse_list(orjson.dumps(document), sort_keys=("name",))
    assert isinstance(made, ParsedList | NotAList)


_LINKS = st.sampled_from(["/v2/images/x", "https://evil.example/x", None])
_STATUSES = st.sampled_from(["active", "queued", "saving", None, 7])
_IMAGES = st.lists(
    st.fixed_dictionaries(
        {"id": st.text("ab", min_size=1, max_size=3) | st.none()},
        optional={
            "status": _STATUSES,
            "self": _LINKS,
            "file": _LINKS,
            "name": st.text(max_size=2) | st.none(),
            "visibility": st.sampled_from(["public", "private"]),
            "updated_at": st.sampled_from(["1970-01-01T00:01:00Z", "1970-01-01T00:00:05Z", "yesterday"]),
        },
    ),
    max_size=6,
    unique_by=lambda image: image["id"],
)


@given(_IMAGES, st.integers(1, 200), st.integers(1, 3), st.booleans(), st.sampled_from([(), ("name",)]))
def test_reading_in_slices_gives_the_same_list(
    images: list[object], max_bytes: int, max_items: int, public: bool, sort_keys: tuple[str, ...]
) -> None:
    """Foreign links, images about to change, nulls and refusals: the result is that of one go, whatever the slices."""
    body = a_list(*images, next="/v2/images?marker=m")
    sliced = read_list_in_slices(body, sort_keys=sort_keys, public=public, limits=SliceLimits(max_bytes, max_items))
    assert run_to_end(sliced) == parse_list(body, sort_keys=sort_keys, public=public)


@pytest.mark.parametrize(
    ("image", "steps"),
    [
        pytest.param({}, 4, id="as published"),
        pytest.param({"status": "queued"}, 4 + 3, id="all about to change"),
        pytest.param({"file": "https://evil.example/x"}, 4 + 3, id="links that lead elsewhere"),
    ],
)
def test_thousand_images_are_read_in_slices_and_a_default_page_in_one_go(image: dict[str, str], steps: int) -> None:
    """No step reads more than 250 images; of 25 there is no step at all, so nobody waits for a turn of the loop."""
    bodies = [a_list(*({"id": f"i{number}", **image} for number in range(count))) for count in (25, 1_000)]
    assert [sum(1 for _ in read_list_in_slices(body)) for body in bodies] == [0, steps]
