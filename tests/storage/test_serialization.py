"""Spans as bytes: nothing is lost on the way, and nothing damaged comes back."""

from __future__ import annotations

from array import array

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.span import Span
from proxy.storage.serialization import decode, encode
from tests.support.spans import a_span

_TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
_TIMES = st.floats(0, 4e9, allow_nan=False)
_KEYS = st.binary(max_size=40)


@st.composite
def spans(draw: st.DrawFn) -> Span:
    """Return any span, its images' bytes as odd as JSON may be."""
    ids = draw(st.lists(_TEXT.filter(bool), unique=True, max_size=6))
    body, starts, ends = b"", array("I"), array("I")
    for image_id in ids:
        body += b", " if body else b""
        starts.append(len(body))
        body += orjson.dumps({"id": image_id, "name": draw(_TEXT)})
        ends.append(len(body))
    return Span(
        marker=draw(_TEXT),
        next_marker=draw(st.none() | _TEXT),
        ids=tuple(ids),
        body=body,
        starts=starts,
        ends=ends,
        limit=draw(st.integers(0, 100_000)),
        fetched_at=draw(_TIMES),
        lifetime_s=draw(_TIMES),
        generation=draw(_TEXT),
        has_nulls=draw(st.booleans()),
        without_next=draw(st.booleans()),
    )


@given(spans(), _KEYS, st.integers(0, 10**15))
def test_a_span_survives(span: Span, key: bytes, fence: int) -> None:
    """What was encoded under a key is decoded under it, whole."""
    assert decode(encode(span, key=key, fence=fence), key=key) == span


@given(spans(), _KEYS, _KEYS)
def test_a_value_belongs_to_its_key(span: Span, key: bytes, other: bytes) -> None:
    """Moved to another key it is no span."""
    assert (decode(encode(span, key=key), key=other) is None) == (key != other)


@given(spans(), st.data())
def test_an_altered_byte_makes_it_no_span(span: Span, data: st.DataObject) -> None:
    """Whichever bit changed, the value is refused."""
    value = bytearray(encode(span, key=b"k"))
    at = data.draw(st.integers(0, len(value) - 1))
    value[at] ^= 1 << data.draw(st.integers(0, 7))
    assert decode(bytes(value), key=b"k") is None


@given(spans(), st.data())
def test_a_value_cut_short_or_lengthened_is_no_span(span: Span, data: st.DataObject) -> None:
    """Every missing or added byte is noticed."""
    value = encode(span, key=b"k")
    assert decode(value[: data.draw(st.integers(0, len(value) - 1))], key=b"k") is None
    assert decode(value + data.draw(st.binary(min_size=1, max_size=9)), key=b"k") is None


@given(st.binary(max_size=200), _KEYS)
def test_foreign_bytes_are_no_span(value: bytes, key: bytes) -> None:
    """Any other value is refused, and none makes the reading fail."""
    assert decode(value, key=key) is None
    assert decode(encode(a_span(), key=key)[:20] + value, key=key) is None


@pytest.mark.parametrize("version", [b"IMS2", b"IMS4", b"IMS\x01", b"XXXX"])
def test_another_version_is_no_span(version: bytes) -> None:
    """What another release wrote is a miss, not a guess."""
    assert decode(version + encode(a_span(), key=b"k")[4:], key=b"k") is None
