"""Spans as bytes. A value of another version, a damaged one, or one moved to another key is no span.

Layout: magic and version (4), tag (16), then decimal digits that the scripts read too: fetched at (15, milliseconds
since the epoch), images (8), rows asked for (8), fence (16), bytes of the end marker (5, 99999 where the listing ends);
the end marker; bytes of the header (8); the header (JSON); the images' own bytes. The tag is a BLAKE2b over the key and
all that follows it.
"""

from __future__ import annotations

import hashlib
import hmac
from array import array
from typing import Final

import orjson

from proxy.core.listing import Span

_MAGIC: Final = b"IMS2"
_TAG_BYTES: Final = 16
_DIGITS: Final = b"%015d%08d%08d%016d%05d"
_DIGITS_BYTES: Final = 52
_NO_END: Final = 99999


def encode(span: Span, *, key: bytes, fence: int = 0) -> bytes:
    """Return *span* as the value to keep under *key*."""
    end = b"" if span.end is None else span.end.encode()
    header = orjson.dumps(
        {
            "after": span.after,
            "ids": span.ids,
            "starts": list(span.starts),
            "ends": list(span.ends),
            "fetched_at": span.fetched_at,
            "lifetime_s": span.lifetime_s,
            "generation": span.generation,
            "nulls": span.nulls,
            "unlinked": span.unlinked,
        }
    )
    end_bytes = _NO_END if span.end is None else len(end)
    digits = _DIGITS % (span.fetched_at * 1000, len(span.ids), span.asked, fence, end_bytes)
    payload = b"".join((digits, end, b"%08d" % len(header), header, span.body))
    return _MAGIC + _tag(key, payload) + payload


def decode(value: bytes, *, key: bytes) -> Span | None:
    """Return the span in *value* as it was kept under *key*, or None where that is not what it is."""
    payload = value[len(_MAGIC) + _TAG_BYTES :]
    if value[: len(_MAGIC)] != _MAGIC or not hmac.compare_digest(value[4:20], _tag(key, payload)):
        return None
    end_bytes = int(payload[_DIGITS_BYTES - 5 : _DIGITS_BYTES])
    end, at = None, _DIGITS_BYTES
    if end_bytes != _NO_END:
        end = payload[at : at + end_bytes].decode()
        at += end_bytes
    header_end = at + 8 + int(payload[at : at + 8])
    header = orjson.loads(payload[at + 8 : header_end])
    return Span(
        after=header["after"],
        end=end,
        ids=tuple(header["ids"]),
        body=payload[header_end:],
        starts=array("I", header["starts"]),
        ends=array("I", header["ends"]),
        asked=int(payload[23:31]),
        fetched_at=header["fetched_at"],
        lifetime_s=header["lifetime_s"],
        generation=header["generation"],
        nulls=header["nulls"],
        unlinked=header["unlinked"],
    )


def _tag(key: bytes, payload: bytes) -> bytes:
    tag = hashlib.blake2b(b"%d:%b" % (len(key), key), digest_size=_TAG_BYTES)
    tag.update(payload)
    return tag.digest()
