"""Spans as bytes. A value of another version, a damaged one, or one moved to another key is no span.

Layout, big-endian: magic and version (4), tag (16), fetched_at (f64), image count (u32), end-marker length (u16, 65535
where the listing ends), end marker, header length (u32), header (JSON), the images' bytes. The tag is a BLAKE2b over
the key and all that follows it. `chain.lua` reads the fields before the header.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from array import array
from typing import Final

import orjson

from proxy.core.listing import Span

_MAGIC: Final = b"IMS\x01"
_PREFIX: Final = struct.Struct(">dIH")
_TAG_BYTES: Final = 16
_NO_END: Final = 0xFFFF


def encode(span: Span, *, key: bytes) -> bytes:
    """Return *span* as the value to keep under *key*."""
    end = b"" if span.end is None else span.end.encode()
    header = orjson.dumps(
        {
            "after": span.after,
            "ids": span.ids,
            "starts": list(span.starts),
            "ends": list(span.ends),
            "asked": span.asked,
            "lifetime_s": span.lifetime_s,
            "generation": span.generation,
            "nulls": span.nulls,
            "unlinked": span.unlinked,
        }
    )
    prefix = _PREFIX.pack(span.fetched_at, len(span.ids), _NO_END if span.end is None else len(end))
    payload = b"".join((prefix, end, struct.pack(">I", len(header)), header, span.body))
    return _MAGIC + _tag(key, payload) + payload


def decode(value: bytes, *, key: bytes) -> Span | None:
    """Return the span in *value* as it was kept under *key*, or None where that is not what it is."""
    payload = value[len(_MAGIC) + _TAG_BYTES :]
    if value[: len(_MAGIC)] != _MAGIC or not hmac.compare_digest(value[4:20], _tag(key, payload)):
        return None
    fetched_at, _, end_length = _PREFIX.unpack_from(payload)
    at = _PREFIX.size
    end = None
    if end_length != _NO_END:
        end = payload[at : at + end_length].decode()
        at += end_length
    (header_length,) = struct.unpack_from(">I", payload, at)
    at += 4
    header = orjson.loads(payload[at : at + header_length])
    return Span(
        after=header["after"],
        end=end,
        ids=tuple(header["ids"]),
        body=payload[at + header_length :],
        starts=array("I", header["starts"]),
        ends=array("I", header["ends"]),
        asked=header["asked"],
        fetched_at=fetched_at,
        lifetime_s=header["lifetime_s"],
        generation=header["generation"],
        nulls=header["nulls"],
        unlinked=header["unlinked"],
    )


def _tag(key: bytes, payload: bytes) -> bytes:
    tag = hashlib.blake2b(struct.pack(">I", len(key)) + key, digest_size=_TAG_BYTES)
    tag.update(payload)
    return tag.digest()
