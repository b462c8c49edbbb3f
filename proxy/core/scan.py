"""Reads a list answer for what is asked of its images, and finds where each of them stands.

To make objects of 1,000 images takes several times as long as to check that they are well-formed, and hardly more than
an image's id is ever asked for. So a body is parsed to its last byte, but only what `Image` names is made of it; which
bytes are an image's, the same parser says that says what its id is.

A body that names `images` twice is read by some as having the first, by others the last: it is none. To know, what lies
around the images is parsed once more, name by name.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, NamedTuple

import msgspec

_ARRAY: Final = re.compile(rb'"images"[ \t\n\r]*+:[ \t\n\r]*+\[[ \t\n\r]*+')
_BETWEEN: Final = re.compile(rb"[ \t\n\r]*+,[ \t\n\r]*+")
_MEMBERS: Final = json.JSONDecoder(object_pairs_hook=list)


class ScanError(ValueError):
    """The body is not an object with one array `images` of objects."""


class Image(msgspec.Struct, gc=False):
    """What is asked of every image, None where it is null or missing."""

    id: Any = None
    status: Any = None
    self: Any = None
    file: Any = None
    schema: Any = None


class FullImage(Image, gc=False):
    """What is asked besides where lists are sorted by what an image may lack, or have to be public."""

    visibility: Any = None
    name: Any = None
    disk_format: Any = None
    container_format: Any = None


class _List(msgspec.Struct):
    images: list[Image]
    next: Any = None


class _FullList(msgspec.Struct):
    images: list[FullImage]
    next: Any = None


class _Pieces(msgspec.Struct):
    images: list[msgspec.Raw]


_LIST: Final = msgspec.json.Decoder(_List)
_FULL_LIST: Final = msgspec.json.Decoder(_FullList)
_PIECES: Final = msgspec.json.Decoder(_Pieces)


class Scanned(NamedTuple):
    """A list answer: its *images*, its link to the *next* page, and the images' own bytes.

    These are a *run*, of *sizes*, with *between* between each two.
    """

    images: list[Image] | list[FullImage]
    next: Any
    run: bytes
    sizes: list[int]
    between: bytes


def scanned(body: bytes, *, full: bool = False) -> Scanned:
    """Return what the list answer *body* has, *full* images or only what is asked of all.

    Raises `ScanError` where it is not JSON (RFC 8259), or where `images` is missing, stands twice, or holds something
    else than objects.
    """
    try:
        if not body.isascii():
            body.decode()  # of a string that nobody asks for the parser does not say that it is no UTF-8
        answer = (_FULL_LIST if full else _LIST).decode(body)
        pieces = _PIECES.decode(body).images
        sizes = list(map(len, pieces))
        run, between, around = _cut(body, pieces, sizes)
        if _twice(body, around):
            raise ScanError("images: stands twice")
    except (ValueError, RecursionError) as error:
        raise ScanError("body: not a list answer") from error
    return Scanned(answer.images, answer.next, run, sizes, between)


def _cut(body: bytes, pieces: list[msgspec.Raw], sizes: list[int]) -> tuple[bytes, bytes, bytes]:
    """Return *pieces* as a run, what is between them, and *body* without the run.

    Where that is not found in *body* as it should be, separated alike and in the first array called `images`, commas
    are between, and *body* is returned whole.
    """
    array = _ARRAY.search(body)
    if array is not None and pieces:
        start = array.end()
        found = _BETWEEN.match(body, start + sizes[0])
        between = found[0] if found else b","
        run = between.join(pieces)
        if body.startswith(run, start):
            return run, between, body[:start] + body[start + len(run) :]
    return b",".join(pieces), b",", body


def _twice(body: bytes, around: bytes) -> bool:
    """Whether *body* names `images` twice, as far as can be told from what is *around* its images, else from all."""
    if around.count(b'"images"') == 1 and b"\\" not in around:
        return False  # spelt without escapes it stands there once, and with one it does not
    return _under_images(around) != [[]] and len(_under_images(body)) != 1


def _under_images(text: bytes) -> list[Any]:
    """Return what stands under the name `images` in the object *text*, as often as it stands there."""
    return [value for name, value in _MEMBERS.decode(text.decode()) if name == "images"]
