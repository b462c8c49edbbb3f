"""Content codings: which one a caller gets by its `Accept-Encoding` (RFC 9110 §12.5.3), and the codings themselves."""

from __future__ import annotations

import sys
import zlib
from functools import lru_cache
from typing import Final, Protocol

from proxy.http.negotiation import weights

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_OTHER_NAMES: Final = {"x-gzip": "gzip"}

# What we make, in our order of preference among equals: zstd takes a fraction of the time for fewer bytes.
CODINGS: Final = ("zstd", "gzip")
# What the upstream is asked for: what can be undone here within bounds.
READABLE: Final = ", ".join(CODINGS)

WORTH_CODING: Final = 512  # bytes; a shorter body gains nothing

_REMEMBERED_CHARS: Final = 256  # callers send what they like, up to 64 KiB
_GZIP_LEVEL: Final = 6
_ZSTD_LEVEL: Final = 3
# Who decodes must not need more memory than that, nor do we (RFC 9659 §3).
_ZSTD_WINDOW_LOG: Final = 23


class CodingError(Exception):
    """A body that is not in the coding that it says, or is longer than it may be."""


def chosen(accept_encoding: str | None) -> str | None:
    """Return the coding for this caller, None for identity. For short fields it is remembered.

    Without the field identity is what old clients can read; a weight that is malformed counts as 0.
    """
    if accept_encoding is None:
        return None
    return _remembered(accept_encoding) if len(accept_encoding) <= _REMEMBERED_CHARS else _chosen(accept_encoding)


def _chosen(accept_encoding: str) -> str | None:
    liked = {_OTHER_NAMES.get(coding, coding): weight for coding, weight in weights(accept_encoding).items()}
    anything = liked.get("*", 0.0)
    best = max(CODINGS, key=lambda coding: liked.get(coding, anything))
    weight_of_best = liked.get(best, anything)
    return best if weight_of_best > 0 and weight_of_best >= liked.get("identity", 0.0) else None


_remembered = lru_cache(maxsize=1024)(_chosen)


def encoded(body: bytes, coding: str) -> bytes:
    """Return *body* in *coding*, one of `CODINGS`."""
    if coding == "zstd":
        return zstd.compress(body, _ZSTD_LEVEL)
    return zlib.compress(body, _GZIP_LEVEL, wbits=31)


def decoded(body: bytes, coding: str, *, at_most: int) -> bytes | None:
    """Return *body* with *coding* undone, None for a coding that is none of `CODINGS`.

    Raises `CodingError` for one that is damaged, cut short, or longer than *at_most* bytes: never more than that is
    decompressed, whatever the body promises.
    """
    coding = _OTHER_NAMES.get(coding, coding)
    if coding not in CODINGS:
        return None
    parts: list[bytes] = []
    left = at_most
    while body:  # several frames or members in a row are one body (RFC 8878 §3.1, RFC 1952 §2.2)
        decompressor = _decompressor(coding)
        try:
            plain = decompressor.decompress(body, left + 1)
        except (zlib.error, zstd.ZstdError) as error:
            raise CodingError(f"damaged {coding} body") from error
        left -= len(plain)
        if left < 0 or not decompressor.eof:
            raise CodingError(f"{coding} body cut short or longer than {at_most} bytes")
        parts.append(plain)
        body = decompressor.unused_data
    return b"".join(parts)


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def _decompressor(coding: str) -> _Decompressor:
    if coding == "zstd":
        return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG})
    return zlib.decompressobj(wbits=31)
