"""Content negotiation: what a client prefers by `Accept` and `Accept-Encoding` (RFC 9110 §12.4.2, §12.5.3).

The codings themselves are here too, and the proxy's own answers in a form that their reader can read; never HTML.
"""

from __future__ import annotations

import re
import sys
import zlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Final, Protocol

import orjson

from proxy.core.messages import Fields

_WEIGHTED_MEMBER: Final = re.compile(r"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)", re.ASCII)


def parse_weights(value: str) -> dict[str, float]:
    """Return the weight of each member of the list *value*, by its name in lower case; other parameters are dropped.

    A member without a weight has 1, one whose weight is malformed 0. Of a name that is repeated the last one counts.
    """
    found: dict[str, float] = {}
    for member in value.lower().split(","):
        name, *parameters = (part.strip() for part in member.split(";"))
        weight = next((each[2:] for each in parameters if each.startswith("q=")), "1")
        if name:
            found[name] = float(weight) if _WEIGHTED_MEMBER.fullmatch(weight) else 0.0
    return found


if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_CODING_ALIASES: Final = {"x-gzip": "gzip"}

# What we make, in our order of preference among equals: zstd takes a fraction of the time for fewer bytes.
CODINGS: Final = ("zstd", "gzip")
# What the upstream is asked for: what can be undone here within bounds.
ACCEPTED_CODINGS: Final = ", ".join(CODINGS)

MIN_CODED_BYTES: Final = 512  # bytes; a shorter body gains nothing

_MAX_CACHED_CHARS: Final = 256  # callers send what they like, up to 64 KiB
_GZIP_LEVEL: Final = 6
_ZSTD_LEVEL: Final = 3
# Who decodes must not need more memory than that, nor do we (RFC 9659 §3).
_ZSTD_WINDOW_LOG: Final = 23


class CodingError(Exception):
    """A body that is not in the coding that it says, or is longer than it may be."""


def choose_coding(accept_encoding: str | None) -> str | None:
    """Return the coding for this caller, None for identity. For short fields it is remembered.

    Without the field identity is what old clients can read; a weight that is malformed counts as 0.
    """
    if accept_encoding is None:
        return None
    return (
        _choose_cached(accept_encoding)
        if len(accept_encoding) <= _MAX_CACHED_CHARS
        else _choose_uncached(accept_encoding)
    )


def _choose_uncached(accept_encoding: str) -> str | None:
    liked = {_CODING_ALIASES.get(coding, coding): weight for coding, weight in parse_weights(accept_encoding).items()}
    anything = liked.get("*", 0.0)
    best = max(CODINGS, key=lambda coding: liked.get(coding, anything))
    weight_of_best = liked.get(best, anything)
    return best if weight_of_best > 0 and weight_of_best >= liked.get("identity", 0.0) else None


_choose_cached = lru_cache(maxsize=1024)(_choose_uncached)


def encode(body: bytes, coding: str) -> bytes:
    """Return *body* in *coding*, one of `CODINGS`."""
    if coding == "zstd":
        return zstd.compress(body, _ZSTD_LEVEL)
    return zlib.compress(body, _GZIP_LEVEL, wbits=31)


def decode(body: bytes, coding: str, *, max_bytes: int) -> bytes | None:
    """Return *body* with *coding* undone, None for a coding that is none of `CODINGS`.

    Raises `CodingError` for one that is damaged, cut short, or longer than *max_bytes* bytes: never more than that is
    decompressed, whatever the body promises.
    """
    coding = _CODING_ALIASES.get(coding, coding)
    if coding not in CODINGS:
        return None
    parts: list[bytes] = []
    left = max_bytes
    while body:  # several frames or members in a row are one body (RFC 8878 §3.1, RFC 1952 §2.2)
        decompressor = _make_decompressor(coding)
        try:
            plain = decompressor.decompress(body, left + 1)
        except (zlib.error, zstd.ZstdError) as error:
            raise CodingError(f"damaged {coding} body") from error
        left -= len(plain)
        if left < 0 or not decompressor.eof:
            raise CodingError(f"{coding} body cut short or longer than {max_bytes} bytes")
        parts.append(plain)
        body = decompressor.unused_data
    return b"".join(parts)


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def _make_decompressor(coding: str) -> _Decompressor:
    if coding == "zstd":
        return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG})
    return zlib.decompressobj(wbits=31)


# It takes any JSON for Glance's, whose members are all objects, and stumbles over a flat one; it says `Accept: */*`.
_READS_NO_FLAT_JSON: Final = "python-glanceclient"


def render_error(code: str, message: str, *, request_id: str, request_fields: Fields) -> tuple[str, bytes]:
    """Return the content type and the body that tell an error: as the gateway before IMS does, or in plain text."""
    if prefers_text(request_fields):
        return "text/plain; charset=UTF-8", f"{code}: {message} (request {request_id})\n".encode()
    return "application/json", orjson.dumps({"error_code": code, "error_msg": message, "request_id": request_id})


def prefers_text(asked: Fields) -> bool:
    """Whether plain text is liked better than JSON by who *asked* (RFC 9110 §12.5.1)."""
    ranges = parse_weights(",".join(asked.get_all("accept")))
    text, json = _quality(ranges, "text", "plain"), _quality(ranges, "application", "json")
    if text != json:
        return text > json
    return (asked.get("user-agent") or "").startswith(_READS_NO_FLAT_JSON) and "application/json" not in ranges


def _quality(ranges: Mapping[str, float], kind: str, subtype: str) -> float:
    """Return the weight that the nearest of *ranges* gives a type; without any, everything is liked."""
    if not ranges:
        return 1.0
    return next((ranges[name] for name in (f"{kind}/{subtype}", f"{kind}/*", "*/*") if name in ranges), 0.0)
