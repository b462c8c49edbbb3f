"""What is read of a list answer, and where images stand in its bytes."""

import contextlib
import gc
import json
import time
from collections.abc import Callable
from itertools import accumulate
from math import isinf
from typing import Any

import orjson
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from proxy.core.list_api import IMAGES
from proxy.core.slices import SliceLimits, run_to_end
from proxy.listing.response_parser import FullImage, ScanError, ScannedList, scan_in_slices, scan_list

DEEP = 2_000_000  # more than any stack holds, which is what bounds nesting since Python 3.14

_HOSTILE = st.sampled_from(['"', "\\", '\\"', "{", "}", "[", "]", '"images":[', '{"id":"x"}', "],", "\n", "é", "镜像"])
_TEXT = st.lists(_HOSTILE | st.text(st.characters(codec="utf-8"), max_size=4), max_size=4).map("".join)
_SCALARS = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
_LEAVES = _SCALARS | _TEXT
_SHALLOW = st.lists(_LEAVES, max_size=3) | st.dictionaries(_TEXT, _LEAVES, max_size=3)
_VALUES = _LEAVES | st.lists(_LEAVES | _SHALLOW, max_size=3) | st.dictionaries(_TEXT, _LEAVES | _SHALLOW, max_size=3)
_IMAGES = st.lists(st.dictionaries(_TEXT, _VALUES, max_size=4), max_size=5)
_AROUND = st.dictionaries(_TEXT.filter(lambda name: name != "images"), _VALUES, max_size=3)
_SPACE = st.text(" \t\r\n", max_size=2)


@st.composite
def spelt(draw: st.DrawFn, value: object) -> str:
    """Return JSON for *value* with white space wherever the grammar allows it (RFC 8259 §2)."""
    before, after = draw(_SPACE), draw(_SPACE)
    match value:
        case dict():
            members = [f"{draw(spelt(name))}:{draw(spelt(item))}" for name, item in value.items()]
            inner = "{" + (",".join(members) or draw(_SPACE)) + "}"
        case list():
            inner = "[" + (",".join(draw(spelt(item)) for item in value) or draw(_SPACE)) + "]"
        case _:
            inner = json.dumps(value, ensure_ascii=draw(st.booleans()))
    return before + inner + after


def slices(found: ScannedList) -> list[bytes]:
    starts = accumulate((size + len(found.separator) for size in found.sizes), initial=0)
    return [found.images_body[start : start + size] for start, size in zip(starts, found.sizes, strict=False)]


@given(_AROUND, _IMAGES, st.data())
def test_slices_are_the_images(around: dict[str, object], images: list[object], data: st.DataObject) -> None:
    """Whatever the spacing, and whatever braces and quotes stand in strings, each slice parses to its image."""
    names = data.draw(st.permutations([*around, "images"]))
    body = data.draw(spelt({name: images if name == "images" else around[name] for name in names})).encode()
    pieces = slices(scan_list(body))
    assert [json.loads(piece) for piece in pieces] == json.loads(body)["images"]
    assert all(piece in body and piece[:1] == b"{" and piece[-1:] == b"}" for piece in pieces)


_NAMES = st.sampled_from(["images", "id", "status", "self", "next", "name", "visibility", "\u0069mages"])
_TOKENS = [
    *(b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b" ", b"\n", b"\x00", b"\x0b", b"\x0c", b"\x1f", b"\x7f", b"/"),
    *(b"\xff", b"\xc3", b"\xc3\xa9", b"\xed\xa0\x80", b"\xc0\x80", b"\xef\xbb\xbf", b"\xc2\xa0", b"\\u", b"\\u0061"),
    *(b"\\ud800", b"\\udc00", b"\\ud83d\\ude00", b"\\/", b"\\x", b"0", b"01", b"-", b"-0", b".", b"1.", b"e", b"1e5"),
    *(b"1E-400", b"1e999", b"9" * 400, b"NaN", b"Infinity", b"nul", b"null", b"true", b"[" * 40, b"]" * 40),
    *(b'"images":[],', b',"images":[]', b'"im\\u0061ges":[],', b'"id":"z",', b'"i\\u0064":7,', b"},{", b"} , {", b"//"),
]


@st.composite
def nearly_lists(draw: st.DrawFn) -> bytes:
    """Return a list answer with some of its bytes replaced."""
    members = st.dictionaries(_NAMES | _TEXT, _VALUES, max_size=4)
    document = {**draw(members), "images": draw(st.lists(members, max_size=4)), **draw(members)}
    body = draw(spelt(document)).encode()
    for _ in range(draw(st.integers(0, 3))):
        at, length = draw(st.integers(0, len(body))), draw(st.integers(0, 3))
        body = body[:at] + draw(st.sampled_from(_TOKENS)) + body[at + length :]
    return body


def read_in_full(body: bytes) -> dict[str, Any] | None:
    """Return what a parser that makes everything makes of *body*, None where it is not a list of objects."""
    try:
        document = orjson.loads(body)
        names = [name for name, _ in json.loads(body, object_pairs_hook=list)] if isinstance(document, dict) else []
    except ValueError:
        return None
    images = document.get("images") if names.count("images") == 1 else None
    return document if isinstance(images, list) and all(isinstance(image, dict) for image in images) else None


def has_a_number_too_large(body: bytes) -> bool:
    """Whether *body* is JSON but for a number in it that no double holds, which RFC 8259 §6 leaves open."""
    large: list[str] = []

    def number(text: str) -> float:
        if isinf(float(text)):
            large.append(text)
        return 0.0

    with contextlib.suppress(ValueError):
        json.loads(body, parse_float=number, parse_int=number)
    return bool(large)


@settings(max_examples=500)
@given(nearly_lists())
@example(b'{"x":{"images":[{"id":"a"}]},"images":[{"id":"a"}]}')
@example(b'{"images":[{"id":"a"}],"images":[{"id":"a"}]}')
@example(b'{"x":{"images":[{"id":"a"}]},"images":[{"id":"b"}]}')
@example(b'{"x":"\\"images\\":[{}","images":[{}]}')
@example(b'{"images":[{"id":"a"} ,{"id":"b"}, {"id":"c"}]}')
@example(b'{"images":[{"id":"a","id":"b"}],"next":1,"next":"x"}')
def test_a_full_parse_says_the_same(body: bytes) -> None:
    """However a body is broken, it is read as by a parser that makes everything of it, or refused as by that."""
    assume(not has_a_number_too_large(body))
    document = read_in_full(body)
    if document is None:
        for full in (False, True):
            with pytest.raises(ScanError):
                scan_list(body, full=full)
        return
    for full in (False, True):
        found = scan_list(body, full=full)
        assert found.next == document.get("next")
        assert [orjson.loads(piece) for piece in slices(found)] == document["images"]
        for image, made in zip(found.images, document["images"], strict=True):
            assert all(getattr(image, name) == made.get(name) for name in image.__struct_fields__)


@settings(max_examples=500)
@given(nearly_lists(), st.integers(1, 60), st.integers(1, 3), st.booleans())
@example(b'{"images":[{"id":"a"} ,{"id":"b"}, {"id":"c"}],"next":"x"}', 1, 1, False)
@example(b'{"images":[{"id":"a"},{"id":"b"},7]}', 1, 1, False)
@example(b'{"images":[{"id":"a"},{"id":"\\ud800"}]}', 1, 1, False)
def test_scan_in_slices_says_the_same(body: bytes, max_bytes: int, max_items: int, full: bool) -> None:
    """However the images are divided into slices, the result is that of one go; or both refuse the body."""
    sliced = scan_in_slices(body, full=full, limits=SliceLimits(max_bytes, max_items))
    try:
        whole = scan_list(body, full=full)
    except ScanError:
        with pytest.raises(ScanError):
            run_to_end(sliced)
        return
    assert run_to_end(sliced) == whole


def test_images_that_stand_apart_in_several_ways_are_found_without_a_second_parse(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only what lies around them is parsed name by name, which for a whole list takes ten times as long as the scan."""
    parsed: list[bytes] = []

    def under_images(_name: str, text: bytes) -> list[Any]:
        parsed.append(text)
        return [[]]

    monkeypatch.setattr("proxy.listing.response_parser._values_named", under_images)
    found = scan_list(b'{"x":{"images":[1]},"images":[{"id":"a"} ,{"id":"b"}, {"id":"\\u0063"}],"next":null}')
    assert [image.id for image in found.images] == ["a", "b", "c"]
    assert parsed == [b'{"x":{"images":[1]},"images":[],"next":null}']


def test_all_that_lists_may_be_sorted_by_is_read() -> None:
    """A full image has every sort key that an image may lack."""
    assert set(FullImage.__struct_fields__) >= IMAGES.nullable_sort_keys


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"[]", id="an array"),
        pytest.param(b'"images"', id="a string"),
        pytest.param(b"{}", id="no images"),
        pytest.param(b'{"next":"/v2/images"}', id="only a link"),
        pytest.param(b'{"images":null}', id="null"),
        pytest.param(b'{"images":{}}', id="an object of images"),
        pytest.param(b'{"images":[1]}', id="a number among images"),
        pytest.param(b'{"images":["{}"]}', id="a string among images"),
        pytest.param(b'{"images":[[{}]]}', id="an array among images"),
        pytest.param(b'{"images":[],"images":[]}', id="images twice"),
        pytest.param(b'{"images":[{"id":"a"}],"im\\u0061ges":[{"id":"b"}]}', id="images twice, once with an escape"),
        pytest.param(b'{"images":[{"id":"a"}', id="cut short"),
        pytest.param(b'{"a":{"images":[]}}', id="images further in"),
        pytest.param(b'{"images":[{"a":' + b"[" * DEEP + b"]" * DEEP + b"}]}", id="nested without measure"),
        pytest.param(b'{"a":' + b"[" * DEEP + b"]" * DEEP + b',"images":[]}', id="nested beside the images"),
        pytest.param(b'{"images":[{"name":"\xff"}]}', id="no UTF-8 in a string"),
        pytest.param(b'{"images":[{"\xc3":1}]}', id="no UTF-8 in a name"),
        pytest.param(b'{"images":[{"size":NaN}]}', id="no number"),
    ],
)
@pytest.mark.parametrize("full", [False, True])
def test_what_is_no_list_of_objects_is_refused(body: bytes, *, full: bool) -> None:
    """Anything but one array of objects under one name raises."""
    with pytest.raises(ScanError):
        scan_list(body, full=full)


@pytest.mark.parametrize("name", [b"images", b"im\\u0061ges", b"\\u0069mages", b"image\\u0073"])
def test_a_second_array_hides_in_no_image(name: bytes) -> None:
    """Two arrays are never taken for one, whichever of them a parser would take."""
    with pytest.raises(ScanError):
        scan_list(b'{"images":[{"a":1}],"%b":[{"c":3},{"d":4}]}' % name)


def test_boundaries_that_are_none() -> None:
    """What looks like a boundary in a string, or deeper down, is none."""
    images = [{"a": "},{", "b": [{"c": 1}, {"d": 2}]}, {"e": "} , {"}]
    body = json.dumps({"images": images}).encode()
    assert [json.loads(piece) for piece in slices(scan_list(body))] == images


@pytest.mark.parametrize("between", [b",", b", ", b"\n,\t"])
def test_images_are_one_run_of_the_bytes_that_came(between: bytes) -> None:
    """Where all are separated alike, so they are in the run."""
    images = between.join([b'{"id":"a"}', b'{ "id":"b" }', b"{}"])
    found = scan_list(b'{"images" : [ %b ],"next":null}' % images)
    assert (found.images_body, found.separator) == (images, between)


def test_names_with_escapes_may_stand_beside_images() -> None:
    """Only a second `images` is ambiguous, in whatever spelling."""
    assert scan_list(b'{"\\u0061":1,"a\\"b":[],"images":[{}]}').images_body == b"{}"
    assert scan_list(b'{"im\\u0061ges":[{}]}').images_body == b"{}"


def test_numbers_of_any_size_are_passed_on() -> None:
    """What no double holds is nobody's business: the bytes stay as they came."""
    image = b'{"id":"a","size":1e999,"min_disk":%b}' % (b"9" * 400)
    assert slices(scan_list(b'{"images":[%b]}' % image)) == [image]


_SMALL_BYTES = 1 << 16


@pytest.mark.parametrize(
    "hostile",
    [
        pytest.param(lambda n: b'{"a":' + b"[" * n, id="open brackets"),
        pytest.param(lambda n: b'{"a":"' + b"\\\\" * n, id="escapes without an end"),
        pytest.param(lambda n: b'{"a":"' + b'\\"' * n + b'","images":[]}', id="escaped quotes"),
        pytest.param(lambda n: b'{"images":[' + b"{}," * n, id="images without an end"),
        pytest.param(lambda n: b'{"images":[{"a":' + b"[1,{}]," * n, id="values without an end"),
        pytest.param(lambda n: b'{"images":[{' + b'"":"",' * n + b'"x":[[[[[[[[[[', id="too deep at the very end"),
        pytest.param(lambda n: b"{" + b'"a":{},' * n, id="names without an end"),
        pytest.param(lambda n: b"{" + b" \n" * n, id="white space without an end"),
        pytest.param(lambda n: b'{"a":' + b"1" * n, id="a number without an end"),
        pytest.param(lambda n: b'{"images":[' + b'{"":[{"":[{"":"' * n, id="strings that open and never close"),
        pytest.param(lambda n: b'{"x":[' + b'{"images":[ ]},' * n + b'0],"images":[]}', id="images in other places"),
        pytest.param(lambda n: b'{"images":[' + b"{} ,{}, " * n + b"{}]}", id="images separated in several ways"),
        pytest.param(lambda n: b"{" + b'"images":[],' * n + b'"a":0}', id="images again and again"),
    ],
)
def test_hostile_input_costs_time_in_proportion(hostile: Callable[[int], bytes]) -> None:
    """Eight times the input takes nowhere near the sixty-four times of a quadratic scan."""

    def seconds(repeats: int) -> float:
        began = time.process_time()
        with contextlib.suppress(ScanError):
            scan_list(hostile(repeats))
        return time.process_time() - began

    unit = len(hostile(2)) - len(hostile(1))
    repeats = _SMALL_BYTES // unit
    gc.disable()  # what a collection takes is the size of all that other tests left
    try:
        small, large = (min(seconds(each) for _ in range(3)) for each in (repeats, 8 * repeats))
    finally:
        gc.enable()
    assert large < 30 * small + 0.2


def test_a_body_that_parses_is_scanned_whatever_its_size() -> None:
    """Ten thousand images, each with hostile text, are found in order."""
    text = '"}],{[\\' * 20
    body = orjson.dumps({"images": [{"id": str(number), "name": text} for number in range(10_000)]})
    pieces = slices(scan_list(body))
    assert [orjson.loads(piece)["id"] for piece in pieces[::999]] == [str(number) for number in range(0, 10_000, 999)]
