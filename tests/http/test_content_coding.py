"""Which content coding a caller gets, and the codings themselves."""

import gzip
import os
import sys
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.http.negotiation import ACCEPTED_CODINGS, CODINGS, CodingError, _choose_cached, choose_coding, decode, encode

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        pytest.param(None, None, id="no field, as old clients send"),
        pytest.param("", None, id="an empty field"),
        pytest.param("gzip", "gzip", id="gzip"),
        pytest.param("GZIP", "gzip", id="case does not count"),
        pytest.param("x-gzip", "gzip", id="its old name"),
        pytest.param("gzip, deflate", "gzip", id="among others"),
        pytest.param("deflate, br", None, id="only what is not made here"),
        pytest.param("identity", None, id="identity"),
        pytest.param("gzip;q=0", None, id="refused"),
        pytest.param("gzip;q=0.000", None, id="refused at length"),
        pytest.param("gzip;q=0.001", "gzip", id="the least weight"),
        pytest.param("gzip;q=1.000", "gzip", id="the most weight"),
        pytest.param("gzip ; q=0.5 , identity ; q=0.4", "gzip", id="liked better than identity"),
        pytest.param("gzip;q=0.4, identity;q=0.5", None, id="liked less than identity"),
        pytest.param("gzip;q=0.5, identity;q=0.5", "gzip", id="liked as well as identity"),
        pytest.param("gzip;q=2", None, id="a weight beyond one"),
        pytest.param("gzip;q=0.0001", None, id="a weight too fine"),
        pytest.param("gzip;q=-1", None, id="a negative weight"),
        pytest.param("gzip;q=high", None, id="a word"),
        pytest.param("gzip;q=", None, id="an empty weight"),
        pytest.param("gzip;q=.5", None, id="a weight without its zero"),
        pytest.param("gzip, identity;q=0", "gzip", id="identity refused"),
        pytest.param("zstd", "zstd", id="zstd"),
        pytest.param("gzip, deflate, br, zstd", "zstd", id="zstd liked as well as gzip"),
        pytest.param("gzip, zstd;q=0.9", "gzip", id="zstd liked less than gzip"),
        pytest.param("gzip;q=0.5, zstd;q=0.6", "zstd", id="zstd liked better than gzip"),
        pytest.param("gzip, zstd;q=0", "gzip", id="zstd refused"),
        pytest.param("gzip;q=0.1, *;q=0.2", "zstd", id="zstd among anything, liked better than gzip"),
        pytest.param("identity, *;q=0.5", None, id="identity liked better than anything"),
        pytest.param("zstd;q=0.5, identity;q=0.6, gzip;q=0.7", "gzip", id="three weights"),
        pytest.param("*;q=0", None, id="anything refused"),
        pytest.param("gzip;q=0, *", "other", id="anything but gzip"),
    ],
)
def test_the_coding_follows_the_weights(accepted: str | None, coding: str | None) -> None:
    """What is liked best is used, where it is not liked less than identity; a malformed weight refuses."""
    if coding == "other":
        assert choose_coding(accepted) != "gzip"
    else:
        assert choose_coding(accepted) == coding


def test_anything_is_one_of_ours() -> None:
    """A star accepts whatever is made here."""
    assert choose_coding("*") in CODINGS


@given(st.text(max_size=30))
def test_any_field_gives_a_coding_made_here(accepted: str) -> None:
    """No value makes the choice fail or invent a coding."""
    assert choose_coding(accepted) in (*CODINGS, None)


@pytest.mark.parametrize("coding", CODINGS)
@given(body=st.binary(max_size=5000))
def test_what_is_encoded_decodes(coding: str, body: bytes) -> None:
    """Every body comes back, also where it is exactly as long as it may be."""
    assert decode(encode(body, coding), coding, max_bytes=len(body)) == body


@pytest.mark.parametrize("coding", CODINGS)
def test_several_frames_are_one_body(coding: str) -> None:
    """Frames or members in a row decode to all of their content."""
    assert decode(encode(b"one", coding) + encode(b"two", coding), coding, max_bytes=6) == b"onetwo"


def test_what_is_asked_for_can_be_undone() -> None:
    """Each coding that the upstream is offered, by its old name too, is undone; another is left as it came."""
    for coding in ACCEPTED_CODINGS.split(", "):
        assert decode(encode(b"body", coding), coding, max_bytes=4) == b"body"
    assert decode(gzip.compress(b"body"), "x-gzip", max_bytes=4) == b"body"
    assert decode(b"body", "br", max_bytes=4) is None
    assert decode(b"body", "identity", max_bytes=4) is None


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize(
    "spoilt",
    [
        pytest.param(lambda whole: whole[:-1], id="cut short"),
        pytest.param(lambda whole: whole[:5], id="cut in the head"),
        pytest.param(lambda whole: b"\0" + whole, id="something before"),
        pytest.param(lambda whole: whole + b"more", id="something behind"),
        pytest.param(lambda _: b"plain", id="not encoded at all"),
    ],
)
def test_a_damaged_body_is_no_shorter_one(coding: str, spoilt: Callable[[bytes], bytes]) -> None:
    """It is refused, whatever could be made of its beginning."""
    with pytest.raises(CodingError):
        decode(spoilt(encode(os.urandom(400), coding)), coding, max_bytes=10_000)


@pytest.mark.parametrize("coding", CODINGS)
def test_a_body_longer_than_it_may_be_is_not_decoded(coding: str) -> None:
    """Fifty megabytes that travel as a few kilobytes are refused, as one frame and as many."""
    with pytest.raises(CodingError, match="longer than 1000 bytes"):
        decode(encode(bytes(50_000_000), coding), coding, max_bytes=1000)
    with pytest.raises(CodingError, match="longer than 1000 bytes"):
        decode(encode(bytes(600), coding) * 2, coding, max_bytes=1000)


def test_a_wide_window_is_refused() -> None:
    """A frame for which 128 MB would have to be held is no content coding (RFC 9659 §3)."""
    wide = zstd.compress(os.urandom(2000), options={zstd.CompressionParameter.window_log: 27})
    stream = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 27})
    with pytest.raises(CodingError):
        decode(stream.compress(b"a") + stream.flush(), "zstd", max_bytes=10_000)
    assert decode(wide, "zstd", max_bytes=2000) is not None, "a frame that says how short it is needs no window"


def test_both_codings_are_as_others_read_them() -> None:
    """The libraries of clients undo them without being told anything."""
    assert gzip.decompress(encode(b"body", "gzip")) == b"body"
    assert zlib.decompress(encode(b"body", "gzip"), wbits=47) == b"body"
    assert zstd.decompress(encode(b"body", "zstd")) == b"body"


def test_a_long_field_is_read_each_time() -> None:
    """A thousand fields of 64 KiB, which anyone may send, are not kept."""
    before = _choose_cached.cache_info().currsize
    assert choose_coding("gzip" + " " * 1000) == "gzip"
    assert _choose_cached.cache_info().currsize == before
