"""An upstream's answer to a list request -> a span, or the reason why it is none.

Only a 200 whose body is a list becomes a span. Its links are read for the marker in `next` and go no further.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import orjson

from proxy.core.listing import Span
from proxy.core.scan import ScanError, image_bounds

# An image in one of these is about to change (IMS API reference, "Image Attributes"; Glance image statuses).
TRANSIENT_STATUSES: Final = ("queued", "saving", "importing", "uploading", "pending_delete")

_IMAGE_LINKS: Final = ("self", "file", "schema")


@dataclass(frozen=True, slots=True)
class NotAList:
    """A body that can't become a span, and why, fit for `Cache-Status`."""

    reason: str


@dataclass(frozen=True, slots=True)
class Listed:
    """What a list answer holds, before it is known how long it may be kept.

    *transient_since* is when the latest of the images that are about to change got into that state, epoch seconds,
    infinity where that can't be told, None where no image is about to change.
    """

    ids: tuple[str, ...]
    end: str | None
    body: bytes
    starts: array[int]
    ends: array[int]
    nulls: bool
    transient_since: float | None

    def span(
        self, *, after: str, asked: int, unlinked: bool, fetched_at: float, lifetime_s: float, generation: str = ""
    ) -> Span:
        """Return the span, fetched with the limit *asked* after the marker *after*."""
        end = self.ids[-1] if unlinked and self.ids else self.end
        return Span(
            after=after,
            end=end,
            ids=self.ids,
            body=self.body,
            starts=self.starts,
            ends=self.ends,
            asked=asked,
            fetched_at=fetched_at,
            lifetime_s=lifetime_s,
            generation=generation,
            nulls=self.nulls,
            unlinked=unlinked,
        )


def listed(body: bytes, *, sort_keys: Iterable[str] = (), public: bool = False) -> Listed | NotAList:
    """Return what the list answer *body* holds; *sort_keys* are those that an image may lack.

    Where all have to be *public*, one image that is not makes it no list to keep.
    """
    try:
        answer = orjson.loads(body)
        images = answer["images"]
        count = sum(type(image) is dict for image in images)
        bounds = image_bounds(body, count) if count == len(images) else []
    except (orjson.JSONDecodeError, TypeError, KeyError, ScanError):
        return NotAList("not-a-list")
    if len(bounds) != len(images):
        return NotAList("not-a-list")
    ids = tuple(image.get("id") for image in images)
    if not all(isinstance(image_id, str) and image_id for image_id in ids) or len(set(ids)) < len(ids):
        return NotAList("ids")
    if public and not all(image.get("visibility") == "public" for image in images):
        return NotAList("not-public")
    end = _marker_of_next(answer.get("next"), ids)
    if isinstance(end, NotAList):
        return end
    run, starts, ends = _run(body, images, bounds)
    return Listed(
        ids=ids,
        end=end,
        body=run,
        starts=starts,
        ends=ends,
        nulls=any(image.get(key) is None for key in sort_keys for image in images),
        transient_since=max(
            (_changed_at(image) for image in images if image.get("status") in TRANSIENT_STATUSES), default=None
        ),
    )


def _changed_at(image: dict[str, Any]) -> float:
    try:
        moment = datetime.fromisoformat(image.get("updated_at") or image["created_at"])
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (KeyError, TypeError, ValueError):
        return inf


def _marker_of_next(link: object, ids: tuple[Any, ...]) -> str | NotAList | None:
    """Return the marker in the upstream's *link*; host and path of that link are nobody's business.

    A link without a usable marker still says that the listing goes on, and then it does after the last image.
    """
    if link is None:
        return None
    try:
        query = urlsplit(link).query if isinstance(link, str) else ""
        markers = parse_qs(query, errors="strict").get("marker", [])
    except (ValueError, UnicodeError):
        markers = []
    if len(markers) == 1 and 0 < len(markers[0]) <= 255 and markers[0].isprintable():
        return markers[0]
    return str(ids[-1]) if ids else NotAList("next")


def _run(body: bytes, images: list[Any], bounds: list[tuple[int, int]]) -> tuple[bytes, array[int], array[int]]:
    """Return the images' bytes as one run and the offsets in it.

    Bytes are kept as they came, but for an image whose own links lead elsewhere: those are made host-relative.
    """
    if not bounds:
        return b"", array("I"), array("I")
    if _all_links_home(images):
        first = bounds[0][0]
        starts = array("I", (start - first for start, _ in bounds))
        ends = array("I", (end - first for _, end in bounds))
        return body[first : bounds[-1][1]], starts, ends
    pieces = [
        body[start:end] if _links_home(image) else orjson.dumps(_homeward(image))
        for image, (start, end) in zip(images, bounds, strict=True)
    ]
    starts, ends, at = array("I"), array("I"), 0
    for piece in pieces:
        starts.append(at)
        ends.append(at + len(piece))
        at += len(piece) + 1
    return b",".join(pieces), starts, ends


def _all_links_home(images: list[Any]) -> bool:
    """Whether every image's own links are relative: looked at as one text, for they almost always are."""
    links = [link for name in _IMAGE_LINKS for image in images if (link := image.get(name)) is not None]
    if not all(type(link) is str for link in links):
        return False
    text = "\n" + "\n".join(links)
    foreign = "\n//" in text or "\n/\\" in text or text.count("\n/") < len(links)
    return not foreign and text.count("\n") == max(1, len(links)) and text.replace("\n", "").isprintable()


def _links_home(image: dict[str, Any]) -> bool:
    return all(_relative(image[name]) for name in _IMAGE_LINKS if image.get(name) is not None)


def _relative(link: object) -> bool:
    return isinstance(link, str) and link.startswith("/") and link[1:2] not in ("/", "\\") and link.isprintable()


def _homeward(image: dict[str, Any]) -> dict[str, Any]:
    """Return *image* with its own links as the API spells them, whatever the upstream made of them."""
    own = f"/v2/images/{image['id']}"
    links = {"self": own, "file": f"{own}/file", "schema": "/v2/schemas/image"}
    foreign = {name for name in _IMAGE_LINKS if image.get(name) is not None and not _relative(image[name])}
    return {name: links[name] if name in foreign else value for name, value in image.items()}
