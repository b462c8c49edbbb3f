"""The listings that the load is about: their images, the bytes of a page, and what each page has to show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from proxy.demo.rendering import build_first_link, build_next_link
from proxy.demo.seed import GOLD_PROJECT, generate_images

LISTINGS: Final = 200
IMAGES: Final = 25
DEFAULT_LIMIT: Final = 25
# A first page of any of these is inside the first span that the proxy fetches: one upstream call serves them all.
LIMITS: Final = (5, 10, 20, 25)

Pairs = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Image:
    """One image: its id, its document, and the document as JSON."""

    id: str
    document: dict[str, object]
    rendered: bytes


def name_listing(number: int) -> str:
    """Return the value of the `name` filter that selects listing *number*."""
    return f"listing-{number}"


def make_listings(numbers: Iterable[int], *, images_each: int = IMAGES) -> dict[str, list[Image]]:
    """Return the images of the listings with these *numbers* by name, in the API's default order, the same every time.

    All are active, so none of them shortens the lifetime of a page.
    """
    made: dict[str, list[Image]] = {}
    for number in numbers:
        name = name_listing(number)
        documents = [
            {**each.document, "name": name}
            for each in generate_images(images_each, seed=number, owners=(GOLD_PROJECT,))
        ]
        documents.sort(key=lambda document: (str(document["created_at"]), str(document["id"])), reverse=True)
        made[name] = [Image(str(document["id"]), document, orjson.dumps(document)) for document in documents]
    return made


def render_page(selected: Sequence[Image], pairs: Pairs, *, limit: int) -> bytes:
    """Return the page of *selected* that the query *pairs* asks for, with links as Glance makes them.

    As in Glance, a page as long as its limit has a `next`, even when nothing follows. Raises KeyError when the marker
    is not among the images.
    """
    marker = dict(pairs).get("marker")
    begin = 0
    if marker is not None:
        positions = {image.id: position for position, image in enumerate(selected)}
        begin = positions[marker] + 1
    shown = selected[begin : begin + limit]
    head: dict[str, object] = {"schema": "/v2/schemas/images", "first": build_first_link(pairs)}
    if shown and len(shown) == limit:
        head["next"] = build_next_link(pairs, shown[-1].id)
    return orjson.dumps(head)[:-1] + b',"images":[' + b",".join(image.rendered for image in shown) + b"]}"
