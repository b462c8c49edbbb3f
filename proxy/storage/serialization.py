"""Spans as bytes. A value of another version, a damaged one, or one moved to another key is no span.

Layout: magic and version (4), tag (16), then decimal digits that the scripts read too: fetched at (15, milliseconds
since the epoch), fresh until (15), images (8), rows asked for (8), fence (16), a checksum of the generation (10), bytes
of the end marker (5, 99999 where the listing ends); the end marker; then, as the seal keeps them, bytes of the header
(8); the header (JSON); the images' own bytes. The tag is the seal's, over the key and all that follows it.
"""

from __future__ import annotations

import zlib
from array import array
from typing import Final

import orjson

from proxy.core.span import Span
from proxy.storage.sealing import TAG_BYTES, Checksum, Seal

_MAGIC: Final = b"IMS3"
_DIGITS: Final = b"%015d%015d%08d%08d%016d%010d%05d"
_DIGITS_BYTES: Final = 77
_ASKED: Final = slice(38, 46)
_NO_END: Final = 99999
CHECKSUM: Final = Checksum()


def encode(span: Span, *, key: bytes, fence: int = 0, seal: Seal = CHECKSUM) -> bytes:
    """Return *span* as the value to keep under *key*, sealed with *seal*."""
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
    times = span.fetched_at * 1000, (span.fetched_at + span.lifetime_s) * 1000
    digits = _DIGITS % (*times, len(span.ids), span.asked, fence, zlib.crc32(span.generation.encode()), end_bytes)
    bound = digits + end
    payload = bound + seal.closed(b"".join((b"%08d" % len(header), header, span.body)), name=key, bound=bound)
    return _MAGIC + seal.tag(key, payload) + payload


def decode(value: bytes, *, key: bytes, seal: Seal = CHECKSUM) -> Span | None:
    """Return the span in *value* as it was kept under *key*, or None where that is not what it is."""
    payload = _payload(value, key=key, seal=seal)
    if payload is None:
        return None
    try:
        return _laid_out(payload, key=key, seal=seal, tag=value[4:20])
    except (ValueError, KeyError, TypeError, OverflowError):
        return None  # whole, but laid out by another release


def body(value: bytes, *, key: bytes, known_as: bytes, seal: Seal = CHECKSUM) -> bytes | None:
    """Return the images in *value* as they were kept under *key*, or None where it is not the span *known_as* so.

    That one was decoded before, so only what was not looked at then is looked at now: that nothing has been altered.
    """
    payload = _payload(value, key=key, seal=seal) if value[4:20] == known_as else None
    if payload is None:
        return None
    _, plain = _opened(payload, key=key, seal=seal)
    return None if plain is None else plain[8 + int(plain[:8]) :]


def _payload(value: bytes, *, key: bytes, seal: Seal) -> bytes | None:
    """Return what stands behind the tag in *value*, None where it is not what was kept under *key*."""
    payload = value[len(_MAGIC) + TAG_BYTES :]
    return payload if value[: len(_MAGIC)] == _MAGIC and seal.genuine(value[4:20], key, payload) else None


def _opened(payload: bytes, *, key: bytes, seal: Seal) -> tuple[str | None, bytes | None]:
    """Return the end marker, and what the seal may have hidden, None where that can't be opened."""
    end_bytes = int(payload[_DIGITS_BYTES - 5 : _DIGITS_BYTES])
    end, at = None, _DIGITS_BYTES
    if end_bytes != _NO_END:
        end = payload[at : at + end_bytes].decode()
        at += end_bytes
    return end, seal.opened(payload[at:], name=key, bound=payload[:at])


def _laid_out(payload: bytes, *, key: bytes, seal: Seal, tag: bytes) -> Span | None:
    end, plain = _opened(payload, key=key, seal=seal)
    if plain is None:
        return None
    header_end = 8 + int(plain[:8])
    header = orjson.loads(plain[8:header_end])
    return Span(
        after=header["after"],
        end=end,
        ids=tuple(header["ids"]),
        body=plain[header_end:],
        starts=array("I", header["starts"]),
        ends=array("I", header["ends"]),
        asked=int(payload[_ASKED]),
        fetched_at=header["fetched_at"],
        lifetime_s=header["lifetime_s"],
        generation=header["generation"],
        nulls=header["nulls"],
        unlinked=header["unlinked"],
        known_as=tag,
    )
