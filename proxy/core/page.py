"""Renders a page: the images' own bytes, with `first`, `next` and `schema` written around them."""

from __future__ import annotations

from typing import Final

import orjson

from proxy.core.keys import ListingKey
from proxy.core.links import page_link
from proxy.core.listing import Page, Part
from proxy.core.query import Window

NATIVE_PATH: Final = "/v2/images"
EXTENSION_PATH: Final = "/v2/cloudimages"


def rendered(page: Page, key: ListingKey, window: Window, base: str) -> bytes:
    """Return the body of *page*; *base* stands before the path in its links.

    `/v2/cloudimages` has no links: its callers page by the last id they saw.
    """
    runs = [run for run in map(_run, page.parts) if run]
    images = runs[0] if len(runs) == 1 else b",".join(runs)
    if key.path == EXTENSION_PATH:
        return b"".join((b'{"images":[', images, b"]}"))
    head = {"schema": f"{base}/v2/schemas/images", "first": page_link(base, key.path, key.query, window)}
    if page.next_marker is not None:
        head["next"] = page_link(base, key.path, key.query, window, page.next_marker)
    return b"".join((orjson.dumps(head)[:-1], b',"images":[', images, b"]}"))


def _run(part: Part) -> memoryview | bytes:
    """Return the part's images where they are: whoever joins them copies them, once."""
    if part.start == part.stop:
        return b""
    return memoryview(part.span.body)[part.span.starts[part.start] : part.span.ends[part.stop - 1]]
