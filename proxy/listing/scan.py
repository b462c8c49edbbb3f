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
from collections.abc import Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

import msgspec

from proxy.core.slices import SLICE, Limits, Steps, cut_slices, run_to_end

_ARRAY: Final = re.compile(rb'"images"[ \t\n\r]*+:[ \t\n\r]*+\[[ \t\n\r]*+')
_BETWEEN: Final = re.compile(rb"[ \t\n\r]*+,[ \t\n\r]*+")
_MEMBERS: Final = json.JSONDecoder(object_pairs_hook=list)
_MAX_ARRAYS: Final = 4  # places looked at for the images' bytes


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


class _FullList(msgspec.Struct):
    images: list[FullImage]


class _Pieces(msgspec.Struct):
    images: list[msgspec.Raw]
    next: Any = None


_PIECES: Final = msgspec.json.Decoder(_Pieces)
_LIST: Final = msgspec.json.Decoder(_List)
_FULL_LIST: Final = msgspec.json.Decoder(_FullList)
_IMAGES: Final = msgspec.json.Decoder(list[Image])
_FULL_IMAGES: Final = msgspec.json.Decoder(list[FullImage])


class Scanned(NamedTuple):
    """A list answer: its *images*, its link to the *next* page, and the images' own bytes.

    These are a *run*, of *sizes*, with *between* between each two.
    """

    images: Sequence[Image]
    next: Any
    run: bytes
    sizes: list[int]
    between: bytes


def scanned(body: bytes, *, full: bool = False) -> Scanned:
    """Return what the list answer *body* has, *full* images or only what is asked of all.

    Raises `ScanError` where it is not JSON (RFC 8259), or where `images` is missing, stands twice, or holds something
    else than objects.
    """
    return run_to_end(scan_in_slices(body, full=full))


def scan_in_slices(body: bytes, *, full: bool = False, limits: Limits = SLICE) -> Steps[Scanned]:
    """Do what `scanned` does, and yield before each slice of the images, if there are several.

    The parser goes over the whole body once to find the images, which takes a third of the time.
    """
    try:
        if not body.isascii():
            body.decode()  # of a string that nobody asks for the parser does not say that it is no UTF-8
        answer = _PIECES.decode(body)
        pieces = answer.images
        sizes = list(map(len, pieces))
        run, between, around = _cut(body, pieces, sizes)
        if _twice(body, around):
            raise ScanError("images: stands twice")
        slices = cut_slices(sizes, limits)
        if len(slices) > 1:
            images = yield from _decode_images(run, sizes, len(between), slices, full=full)
        else:
            images = (_FULL_LIST if full else _LIST).decode(body).images
    except (ValueError, RecursionError) as error:
        raise ScanError("body: not a list answer") from error
    return Scanned(images, answer.next, run, sizes, between)


def _decode_images(
    run: bytes, sizes: Sequence[int], between: int, slices: Sequence[range], *, full: bool
) -> Steps[Sequence[Image]]:
    """Return what is asked of the images in *run*, which are of *sizes* and *between* bytes apart, slice by slice."""
    decoder: msgspec.json.Decoder[Any] = _FULL_IMAGES if full else _IMAGES
    images: list[Image] = []
    start = 0
    for each in slices:
        yield
        end = start + sum(sizes[each.start : each.stop]) + between * (len(each) - 1)
        images += decoder.decode(b"".join((b"[", memoryview(run)[start:end], b"]")))
        start = end + between
    return images


def _cut(body: bytes, pieces: list[msgspec.Raw], sizes: list[int]) -> tuple[bytes, bytes, bytes]:
    """Return *pieces* as a run, what is between them, and *body* without the run.

    Where they are not all separated alike, commas are between. Where they are not found in the first arrays called
    `images`, *body* is returned whole.
    """
    if pieces:
        for array in islice(_ARRAY.finditer(body), _MAX_ARRAYS):
            start = array.end()
            found = _BETWEEN.match(body, start + sizes[0])
            between = found[0] if found else b","
            run = between.join(pieces)
            if body.startswith(run, start):
                return run, between, body[:start] + body[start + len(run) :]
            end = _end_of_images(body, start, pieces, sizes)
            if end is not None:
                return b",".join(pieces), b",", body[:start] + body[end:]
    return b",".join(pieces), b",", body


def _end_of_images(body: bytes, start: int, pieces: list[msgspec.Raw], sizes: list[int]) -> int | None:
    """Return where the last of *pieces* ends in *body*, None where they don't stand there one by one from *start*."""
    end = at = start
    for piece, size in zip(pieces, sizes, strict=True):
        if not body.startswith(piece, at):
            return None
        end = at + size
        between = _BETWEEN.match(body, end)
        at = between.end() if between else end
    return end


def _twice(body: bytes, around: bytes) -> bool:
    """Whether *body* names `images` twice, as far as can be told from what is *around* its images, else from all."""
    if around.count(b'"images"') == 1 and b"\\" not in around:
        return False  # spelt without escapes it stands there once, and with one it does not
    return _under_images(around) != [[]] and len(_under_images(body)) != 1


def _under_images(text: bytes) -> list[Any]:
    """Return what stands under the name `images` in the object *text*, as often as it stands there."""
    return [value for name, value in _MEMBERS.decode(text.decode()) if name == "images"]
