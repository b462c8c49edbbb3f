"""Where each image stands in the bytes of a list answer, so that pages are spliced from the images' own bytes.

The body has been parsed as JSON before: the patterns here find boundaries in well-formed text, they don't validate it.
They are possessive, so that no input makes them backtrack.

Where one image ends and the next begins looks like `},{`. That may stand in a string too, or between objects deeper
down; but if it stands in the rest of the body just once less often than there are images, all of them objects, then
each is a boundary. Finding them so takes a twentieth of the time of walking through every image, which is done else.
"""

from __future__ import annotations

import json
import re
from typing import Final

_WS: Final = rb"[ \t\n\r]*+"
_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_SCALAR: Final = rb'[^"{}\[\]]'


def _nested(depth: int) -> bytes:
    """Return a pattern for an object or array that nests *depth* levels further."""
    inner = rb"|" + _nested(depth - 1) if depth else b""
    return rb"[{\[](?:" + _SCALAR + rb"++|" + _STRING + inner + rb")*+[}\]]"


# Images nest two levels (`tags`, `locations` with metadata); six leaves room, and more is refused.
_VALUE: Final = re.compile(_nested(6) + rb"|" + _STRING + rb"|[-+.0-9A-Za-z]++", re.DOTALL)
_OBJECT: Final = re.compile(rb"(?=\{)" + _nested(6), re.DOTALL)
_OPEN: Final = re.compile(_WS + rb"\{" + _WS)
_NAME: Final = re.compile(rb"(" + _STRING + rb")" + _WS + rb":" + _WS, re.DOTALL)
_COMMA: Final = re.compile(_WS + rb"(,?)" + _WS)
_ARRAY: Final = re.compile(rb"\[" + _WS)
_BOUNDARY: Final = re.compile(rb"\}[ \t\n\r]*+,[ \t\n\r]*+\{")


class ScanError(ValueError):
    """The body is not an object with one array `images` of objects."""


def image_bounds(body: bytes, count: int) -> list[tuple[int, int]]:
    """Return the (start, end) offsets of each image in the list answer *body*, in order.

    It has been parsed, to *count* images that are objects.
    Raises `ScanError` where `images` is missing, stands twice, or holds something else than objects.
    """
    at = _match(_OPEN, body, 0).end()
    bounds: list[tuple[int, int]] | None = None
    while body[at : at + 1] != b"}":
        name = _match(_NAME, body, at)
        at = name.end()
        if b"\\" in name[1] and json.loads(name[1]) == "images":
            raise ScanError("images: spelt with an escape, so that it might stand twice")
        if name[1] == b'"images"':
            if bounds is not None:
                raise ScanError("images: stands twice")
            bounds, at = _elements(body, at, count)
        else:
            at = _match(_VALUE, body, at).end()
        at = _match(_COMMA, body, at).end()
    if bounds is None:
        raise ScanError("images: missing")
    return bounds


def _elements(body: bytes, at: int, count: int) -> tuple[list[tuple[int, int]], int]:
    at = _match(_ARRAY, body, at).end()
    bounds: list[tuple[int, int]] = []
    boundaries = [boundary.span() for boundary in _BOUNDARY.finditer(body, at)]
    if len(boundaries) == count - 1 and body[at : at + 1] == b"{" and _once(body):
        for end, start in boundaries:
            bounds.append((at, end + 1))
            at = start - 1
    while body[at : at + 1] != b"]":
        start, at = _match(_OBJECT, body, at).span()
        bounds.append((start, at))
        at = _match(_COMMA, body, at).end()
    return bounds, at + 1


def _once(body: bytes) -> bool:
    """Whether the name `images` stands only once, however deep: no letter of another one is an escape either."""
    return body.count(b'"images"') == 1 and b"\\u006" not in body and b"\\u007" not in body


def _match(pattern: re.Pattern[bytes], body: bytes, at: int) -> re.Match[bytes]:
    found = pattern.match(body, at)
    if found is None:
        raise ScanError(f"byte {at}: not where a list answer goes on")
    return found
