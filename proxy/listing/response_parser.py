"""Parses an upstream's answer to a list request into a span, or says why it is none.

Only a 200 whose body is a list becomes a span. Its links are read for the marker in `next` and go no further.

Making objects of 1,000 images takes several times as long as checking that they are well-formed, and little more than
their ids is ever needed. So a body is parsed to its last byte, but only the fields of `Image` are made; the same parser
says which bytes are an image's. A body that names `images` twice is read as the first by some and as the last by
others: it is no list. To detect that, what stands around the images is parsed once more, name by name.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from itertools import accumulate, islice
from math import inf
from operator import add
from typing import Any, Final, NamedTuple
from urllib.parse import unquote_plus

import msgspec
import orjson

from proxy.core.list_api import IMAGES, ListApi
from proxy.core.slices import DEFAULT_LIMITS, SliceLimits, Steps, cut_slices, run_to_end
from proxy.core.span import Span
from proxy.core.values import immutable

_BETWEEN: Final = re.compile(rb"[ \t\n\r]*+,[ \t\n\r]*+")
_MEMBERS: Final = json.JSONDecoder(object_pairs_hook=list)
_MAX_ARRAYS: Final = 4  # places looked at for the images' bytes


class ScanError(ValueError):
    """The body is not an object with one array `images` of objects."""


class Image(msgspec.Struct, gc=False):
    """The fields needed of every image, None if null or missing."""

    id: Any = None
    status: Any = None
    self: Any = None
    file: Any = None
    schema: Any = None


class FullImage(Image, gc=False):
    """The fields needed too if the list is sorted by a field that an image may lack, or must be public."""

    visibility: Any = None
    name: Any = None
    disk_format: Any = None
    container_format: Any = None


class _ListDecoders(NamedTuple):
    """Decoders of a list answer whose array has a certain name; in each the array is called `images`."""

    raw: msgspec.json.Decoder[Any]
    images: msgspec.json.Decoder[Any]
    full_images: msgspec.json.Decoder[Any]
    array: re.Pattern[bytes]  # finds the beginning of the array's first item


@lru_cache
def _list_decoders(collection: str) -> _ListDecoders:
    def decoder(item: Any, *more: Any) -> msgspec.json.Decoder[Any]:
        struct = msgspec.defstruct("List", [("images", list[item]), *more], rename={"images": collection})
        return msgspec.json.Decoder(struct)

    name = re.escape(collection.encode())
    array = re.compile(rb'"%b"[ \t\n\r]*+:[ \t\n\r]*+\[[ \t\n\r]*+' % name)
    return _ListDecoders(decoder(msgspec.Raw, ("next", Any, None)), decoder(Image), decoder(FullImage), array)


_IMAGES_DECODER: Final = msgspec.json.Decoder(list[Image])
_FULL_IMAGES_DECODER: Final = msgspec.json.Decoder(list[FullImage])


class ScannedList(NamedTuple):
    """A list answer: its *images*, its `next`, and the images' own bytes of these *sizes* with *separator* between."""

    images: Sequence[Image]
    next: Any
    images_body: bytes
    sizes: list[int]
    separator: bytes


def scan_list(body: bytes, *, api: ListApi = IMAGES, full: bool = False) -> ScannedList:
    """Scan a list answer for `Image` fields, or with *full* for `FullImage` fields.

    Raises `ScanError` if it is not JSON (RFC 8259), or if `images` is missing, stands twice, or holds anything but
    objects.
    """
    return run_to_end(scan_in_slices(body, api=api, full=full))


def scan_in_slices(
    body: bytes, *, api: ListApi = IMAGES, full: bool = False, limits: SliceLimits = DEFAULT_LIMITS
) -> Steps[ScannedList]:
    """Do what `scan_list` does, yielding before each slice of the images if there are several.

    Finding the images takes one pass over the whole body, a third of the time.
    """
    try:
        if not body.isascii():
            body.decode()  # the parser does not check UTF-8 in strings that nobody asks for
        decoders = _list_decoders(api.collection)
        answer = decoders.raw.decode(body)
        pieces = answer.images
        sizes = list(map(len, pieces))
        run, between, around = _cut_out_images(body, pieces, sizes, decoders.array)
        if _has_array_twice(body, around, api.collection):
            raise ScanError("images: stands twice")
        slices = cut_slices(sizes, limits)
        if len(slices) > 1:
            images = yield from _decode_images(run, sizes, len(between), slices, full=full)
        else:
            images = (decoders.full_images if full else decoders.images).decode(body).images
    except (ValueError, RecursionError) as error:
        raise ScanError("body: not a list answer") from error
    return ScannedList(images, answer.next, run, sizes, between)


def _decode_images(
    run: bytes, sizes: Sequence[int], between: int, slices: Sequence[range], *, full: bool
) -> Steps[Sequence[Image]]:
    """Decode the images in *run*, of *sizes* and *between* bytes apart, slice by slice."""
    decoder: msgspec.json.Decoder[Any] = _FULL_IMAGES_DECODER if full else _IMAGES_DECODER
    images: list[Image] = []
    start = 0
    for each in slices:
        yield
        end = start + sum(sizes[each.start : each.stop]) + between * (len(each) - 1)
        images += decoder.decode(b"".join((b"[", memoryview(run)[start:end], b"]")))
        start = end + between
    return images


def _cut_out_images(
    body: bytes, slices: list[msgspec.Raw], sizes: list[int], array: re.Pattern[bytes]
) -> tuple[bytes, bytes, bytes]:
    """Return the images joined, the separator between them, and *body* without them.

    Images that are not all separated alike are joined by commas. If they are not found in the first arrays called
    `images`, *body* comes back whole.
    """
    if slices:
        for beginning in islice(array.finditer(body), _MAX_ARRAYS):
            start = beginning.end()
            found = _BETWEEN.match(body, start + sizes[0])
            between = found[0] if found else b","
            run = between.join(slices)
            if body.startswith(run, start):
                return run, between, body[:start] + body[start + len(run) :]
            end = _end_of_images(body, start, slices, sizes)
            if end is not None:
                return b",".join(slices), b",", body[:start] + body[end:]
    return b",".join(slices), b",", body


def _end_of_images(body: bytes, start: int, slices: list[msgspec.Raw], sizes: list[int]) -> int | None:
    """Return where the last of *slices* ends in *body*, None if they don't follow each other from *start*."""
    end = at = start
    for span_slice, size in zip(slices, sizes, strict=True):
        if not body.startswith(span_slice, at):
            return None
        end = at + size
        between = _BETWEEN.match(body, end)
        at = between.end() if between else end
    return end


def _has_array_twice(body: bytes, around: bytes, collection: str) -> bool:
    """Return whether *body* has the array twice, judged by what stands *around* the images if that suffices."""
    if around.count(b'"%b"' % collection.encode()) == 1 and b"\\" not in around:
        return False  # once without escapes, and there are no escapes
    return _values_named(collection, around) != [[]] and len(_values_named(collection, body)) != 1


def _values_named(name: str, text: bytes) -> list[Any]:
    """Return every value called *name* in the object *text*."""
    return [value for each, value in _MEMBERS.decode(text.decode()) if each == name]


_IMAGE_LINKS: Final = ("self", "file", "schema")
_MARKER: Final = "marker="


class _Times(msgspec.Struct, gc=False):
    updated_at: Any = None
    created_at: Any = None


_TIMES_DECODER: Final = msgspec.json.Decoder(_Times)


@immutable
class NotAList:
    """Why a body can't become a span, as a `Cache-Status` detail."""

    reason: str


@immutable
class ParsedList:
    """A list answer before its lifetime is known.

    *transient_since* is when the latest transient image got into that state: epoch seconds, `inf` if unknown, None if
    no image is transient.
    """

    ids: tuple[str, ...]
    next_marker: str | None
    body: bytes
    starts: array[int]
    ends: array[int]
    has_nulls: bool
    transient_since: float | None

    def to_span(
        self, *, marker: str, limit: int, without_next: bool, fetched_at: float, lifetime_s: float, generation: str = ""
    ) -> Span:
        """Return the span that was fetched after *marker* with *limit*; see `Span` for the rest."""
        next_marker = self.ids[-1] if without_next and self.ids else self.next_marker
        return Span(
            marker=marker,
            next_marker=next_marker,
            ids=self.ids,
            body=self.body,
            starts=self.starts,
            ends=self.ends,
            limit=limit,
            fetched_at=fetched_at,
            lifetime_s=lifetime_s,
            generation=generation,
            has_nulls=self.has_nulls,
            without_next=without_next,
        )


def parse_list(
    body: bytes, *, api: ListApi = IMAGES, sort_keys: Sequence[str] = (), public: bool = False
) -> ParsedList | NotAList:
    """Parse a list answer. *sort_keys* are those that an image may lack; with *public*, every image must be public."""
    return run_to_end(read_list_in_slices(body, api=api, sort_keys=sort_keys, public=public))


def read_list_in_slices(
    body: bytes,
    *,
    api: ListApi = IMAGES,
    sort_keys: Sequence[str] = (),
    public: bool = False,
    limits: SliceLimits = DEFAULT_LIMITS,
) -> Steps[ParsedList | NotAList]:
    """Do what `parse_list` does, yielding between slices of the images; a body of one slice never yields."""
    try:
        answer = yield from scan_in_slices(body, api=api, full=public or bool(sort_keys), limits=limits)
    except ScanError:
        return NotAList("not-a-list")
    images = answer.images
    ids = tuple([image.id for image in images])
    if not {str}.issuperset(map(type, ids)) or "" in ids or len(set(ids)) < len(ids):
        return NotAList("ids")
    if public and not all(getattr(image, "visibility", None) == "public" for image in images):
        return NotAList("not-public")
    end = _marker_of_next(answer.next, ids)
    if isinstance(end, NotAList):
        return end
    run = answer.images_body
    starts, ends = _bounds(answer.sizes, len(answer.separator))
    changing = [at for at, image in enumerate(images) if _is_transient(image, api)]
    transient_since = yield from _latest_change([run[starts[at] : ends[at]] for at in changing], limits)
    if api.item_path is not None and not _has_relative_links(images, ids):
        try:
            slices = [run[start:end] for start, end in zip(starts, ends, strict=True)]
            slices = yield from _make_links_relative(slices, limits)
        except orjson.JSONDecodeError:
            return NotAList("not-a-list")
        run = b",".join(slices)
        starts, ends = _bounds([len(piece) for piece in slices], 1)
    return ParsedList(
        ids=ids,
        next_marker=end,
        body=run,
        starts=starts,
        ends=ends,
        has_nulls=any(getattr(image, key) is None for key in sort_keys for image in images),
        transient_since=transient_since,
    )


def _is_transient(image: Image, api: ListApi) -> bool:
    return image.status != "active" and isinstance(image.status, str) and image.status in api.transient_statuses


def _bounds(sizes: Sequence[int], between: int) -> tuple[array[int], array[int]]:
    """Return where images of *sizes*, *between* bytes apart, start and end."""
    starts = array("I", accumulate([size + between for size in sizes], initial=0))
    starts.pop()
    return starts, array("I", map(add, starts, sizes))


def _latest_change(slices: Sequence[bytes], limits: SliceLimits) -> Steps[float | None]:
    """Return when the latest of the images changed, epoch seconds, None without images."""
    latest: float | None = None
    for number, each in enumerate(cut_slices(list(map(len, slices)), limits)):
        if number:
            yield
        changed_at = max(map(_parse_change_time, slices[each.start : each.stop]))
        latest = changed_at if latest is None else max(latest, changed_at)
    return latest


def _make_links_relative(slices: Sequence[bytes], limits: SliceLimits) -> Steps[list[bytes]]:
    home: list[bytes] = []
    for number, each in enumerate(cut_slices(list(map(len, slices)), limits)):
        if number:
            yield
        home += map(_with_relative_links, slices[each.start : each.stop])
    return home


def _parse_change_time(image: bytes) -> float:
    try:
        times = _TIMES_DECODER.decode(image)
        moment = datetime.fromisoformat(times.updated_at or times.created_at)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError):
        return inf


def _marker_of_next(link: object, ids: tuple[Any, ...]) -> str | NotAList | None:
    """Return the marker in the upstream's `next`; its host and path are ignored.

    A link without a usable marker still says that the listing goes on: then it does after the last image.
    """
    if link is None:
        return None
    query = link.partition("#")[0].partition("?")[2] if isinstance(link, str) else ""
    given = [pair.removeprefix(_MARKER) for pair in query.split("&") if pair.startswith(_MARKER)]
    try:
        markers = [unquote_plus(value, errors="strict") for value in given]
    except UnicodeError:
        markers = []
    if len(markers) == 1 and 0 < len(markers[0]) <= 255 and markers[0].isprintable():
        return markers[0]
    return str(ids[-1]) if ids else NotAList("next")


def _has_relative_links(images: Sequence[Image], ids: Sequence[str]) -> bool:
    """Return whether every image's links are relative. Almost always they are the API's own, which is checked first."""
    own = [f"/v2/images/{image_id}" for image_id in ids]
    if (
        [image.self for image in images] == own
        and [image.file for image in images] == [f"{link}/file" for link in own]
        and [image.schema for image in images] == ["/v2/schemas/image"] * len(ids)
        and "".join(ids).isprintable()
    ):
        return True
    links = (link for image in images for link in (image.self, image.file, image.schema) if link is not None)
    return all(map(_is_relative, links))


def _is_relative(link: object) -> bool:
    return isinstance(link, str) and link.startswith("/") and link[1:2] not in ("/", "\\") and link.isprintable()


def _with_relative_links(raw: bytes) -> bytes:
    """Return the image *raw* with the links that lead elsewhere replaced by the API's own."""
    image: dict[str, Any] = orjson.loads(raw)
    foreign = {name for name in _IMAGE_LINKS if image.get(name) is not None and not _is_relative(image[name])}
    if not foreign:
        return raw
    own = f"/v2/images/{image['id']}"
    links = {"self": own, "file": f"{own}/file", "schema": "/v2/schemas/image"}
    return orjson.dumps({name: links[name] if name in foreign else value for name, value in image.items()})
