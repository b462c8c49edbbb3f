"""Renders a page: the images' own bytes, with `first`, `next` and `schema` written around them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

import orjson

from proxy.core.cache_key import ListingKey
from proxy.core.list_api import EXTENSION_PATH
from proxy.core.list_query import Window
from proxy.core.span import Page, Part
from proxy.listing.links import page_link

Extent: TypeAlias = tuple[int, int]  # from its first byte to behind its last


_END: Final = b"]}"


def rendered(page: Page, key: ListingKey, window: Window, base: str) -> bytes:
    """Return the body of *page*; see `opening` for *base*."""
    return assembled(opening(page, key, window, base), [(part.span.body, extent(part)) for part in page.parts])


def assembled(begun: bytes, runs: Sequence[tuple[bytes, Extent]]) -> bytes:
    """Return the body that is *begun* so and goes on with *runs* of images: where each stands in the bytes it is of.

    They are taken from where they are: whoever joins them copies them, once.
    """
    parts = [memoryview(held)[start:stop] for held, (start, stop) in runs if start < stop]
    images = parts[0] if len(parts) == 1 else b",".join(parts)
    return b"".join((begun, images, _END))


def extent(part: Part) -> Extent:
    """Return where the images of *part* stand in the body of its span."""
    return (0, 0) if part.start == part.stop else (part.span.starts[part.start], part.span.ends[part.stop - 1])


def opening(page: Page, key: ListingKey, window: Window, base: str) -> bytes:
    """Return what stands before the images of *page*; *base* stands before the path in its links.

    `/v2/cloudimages` has no links: its callers page by the last id they saw.
    """
    if key.path == EXTENSION_PATH:
        return b'{"images":['
    head = {"schema": f"{base}/v2/schemas/images", "first": page_link(base, key.path, key.query, window)}
    if page.next_marker is not None:
        head["next"] = page_link(base, key.path, key.query, window, page.next_marker)
    return orjson.dumps(head)[:-1] + b',"images":['
