"""Entity tags of pages that are rendered anew each time: remembered, and always those of the bytes that are given."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from proxy.core.cache_key import CacheKey
from proxy.core.list_query import Window
from proxy.core.partition import Partitioner
from proxy.core.span import Page, PagePart, Span
from proxy.http.conditional import compute_entity_tag
from proxy.listing.page_cache import PageRenderer
from proxy.storage import serialization as codec
from tests.support.spans import a_span

PARTITION = Partitioner(b"0123456789abcdef").for_token("t")
KEY = CacheKey(PARTITION, "", "/v2/images", "")
NAME = b"spans:"


def read(kept: Span) -> Span:
    """Return the span as a store reads it."""
    found = codec.decode(codec.encode(kept, key=NAME), key=NAME)
    assert found is not None
    return found


async def tag(renderer: PageRenderer, page: Page, key: CacheKey, window: Window, base: str = "") -> str:
    """Return the tag of *page*, which is that of its bytes, in quotes."""
    given = await renderer.get_representation(page, key, window, base=base, coding=None)
    assert given.entity_tag == f'"{compute_entity_tag(given.body)}"'
    return given.entity_tag


async def test_each_page_has_the_tag_of_its_bytes() -> None:
    """Whatever makes pages differ, each has its own tag, the first time and the next."""
    renderer = PageRenderer(0)
    spans = [a_span(), a_span("d"), a_span(limit=2)]
    parts = [(PagePart(read(each), *cut),) for each, cut in product(spans, [(0, 2), (1, 2), (0, 1)])]
    pages = [Page(each, following) for each, following in product([*parts, parts[0] + parts[4]], [None, "b"])]
    keys = (KEY, replace(KEY, query="name=a"), replace(KEY, path="/v2/cloudimages"))
    windows = (Window(), Window(2), Window(2, "x"))
    for page, key, window, base in [*product(pages, keys, windows, ("", "https://a.example"))] * 2:
        await tag(renderer, page, key, window, base)


async def test_a_tag_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A span that is read again gives the same page under the tag that was made before; one never read is hashed."""
    made: list[bytes] = []

    def counted(body: bytes) -> str:
        made.append(body)
        return compute_entity_tag(body)

    monkeypatch.setattr("proxy.listing.page_cache.compute_entity_tag", counted)
    renderer, kept = PageRenderer(0), a_span()
    for _ in range(3):
        await tag(renderer, Page((PagePart(read(kept), 0, 3),), None), KEY, Window())
    assert len(made) == 1
    for _ in range(3):
        await tag(renderer, Page((PagePart(kept, 0, 3),), None), KEY, Window())
    assert len(made) == 4


async def test_tags_are_bounded() -> None:
    """However many pages are given, few tags are remembered."""
    renderer, page = PageRenderer(0), Page((PagePart(read(a_span()), 0, 3),), None)
    for number in range(5_000):
        await renderer.get_representation(page, KEY, Window(number), base="", coding=None)
    assert len(renderer._tags) <= 4096
