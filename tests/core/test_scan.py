"""Where images stand in the bytes of a list answer."""

import contextlib
import json
import time
from collections.abc import Callable

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.scan import ScanError, image_bounds

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


@given(_AROUND, _IMAGES, st.data())
def test_slices_are_the_images(around: dict[str, object], images: list[object], data: st.DataObject) -> None:
    """Whatever the spacing, and whatever braces and quotes stand in strings, each slice parses to its image."""
    names = data.draw(st.permutations([*around, "images"]))
    body = data.draw(spelt({name: images if name == "images" else around[name] for name in names})).encode()
    slices = [body[start:end] for start, end in image_bounds(body, len(images))]
    assert [json.loads(piece) for piece in slices] == json.loads(body)["images"]
    assert all(piece[:1] == b"{" and piece[-1:] == b"}" for piece in slices)


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
        pytest.param(b'{"im\\u0061ges":[{"id":"b"}]}', id="images spelt with an escape"),
        pytest.param(b'{"images":[{"id":"a"}', id="cut short"),
        pytest.param(b'{"a":{"images":[]}}', id="images further in"),
        pytest.param(b'{"images":[{"a":' + b"[" * 20 + b"]" * 20 + b"}]}", id="nested deeper than any image"),
    ],
)
@pytest.mark.parametrize("count", [0, 1, 2])
def test_what_is_no_list_of_objects_is_refused(body: bytes, count: int) -> None:
    """Anything but one array of objects under one plain name raises, whatever it was parsed to."""
    with pytest.raises(ScanError):
        image_bounds(body, count)


@pytest.mark.parametrize("name", [b"images", b"im\\u0061ges", b"\\u0069mages", b"image\\u0073"])
def test_a_second_array_hides_in_no_image(name: bytes) -> None:
    """Where two arrays have one boundary between them, it is not taken for one of the first array."""
    with pytest.raises(ScanError):
        image_bounds(b'{"images":[{"a":1}],"%b":[{"c":3},{"d":4}]}' % name, 2)


def test_boundaries_that_are_none() -> None:
    """What looks like a boundary in a string, or deeper down, is none; where it makes up for one, images are walked."""
    images = [{"a": "},{", "b": [{"c": 1}, {"d": 2}]}, {"e": "} , {"}]
    body = json.dumps({"images": images}).encode()
    assert [json.loads(body[start:end]) for start, end in image_bounds(body, 2)] == images


def test_names_with_escapes_may_stand_beside_images() -> None:
    """Only a second spelling of `images` is ambiguous."""
    assert image_bounds(b'{"\\u0061":1,"a\\"b":[],"images":[{}]}', 1) == [(32, 34)]


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
    ],
)
def test_hostile_input_costs_time_in_proportion(hostile: Callable[[int], bytes]) -> None:
    """Eight times the input takes nowhere near the sixty-four times of a quadratic scan."""

    def seconds(repeats: int) -> float:
        began = time.perf_counter()
        with contextlib.suppress(ScanError):
            image_bounds(hostile(repeats), 2)
        return time.perf_counter() - began

    unit = len(hostile(2)) - len(hostile(1))
    repeats = _SMALL_BYTES // unit
    small = min(seconds(repeats) for _ in range(3))
    assert seconds(8 * repeats) < 30 * small + 0.2


def test_a_body_that_parses_is_scanned_whatever_its_size() -> None:
    """Ten thousand images, each with hostile text, are found in order."""
    text = '"}],{[\\' * 20
    body = orjson.dumps({"images": [{"id": str(number), "name": text} for number in range(10_000)]})
    bounds = image_bounds(body, 10_000)
    assert [orjson.loads(body[start:end])["id"] for start, end in bounds[::999]] == [
        str(number) for number in range(0, 10_000, 999)
    ]
