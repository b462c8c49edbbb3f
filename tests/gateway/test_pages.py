"""Rendered pages, remembered."""

from __future__ import annotations

import asyncio
import threading
import zlib

import pytest

from proxy.core.identity import Partition
from proxy.core.keys import ListingKey
from proxy.core.listing import HEAD, Page, Part
from proxy.core.query import Window
from proxy.gateway import codings
from proxy.gateway.pages import PageRenderer
from tests.model import Model

KEY = ListingKey(Partition("token", "0" * 32), "", "/v2/images", "")
ROWS = tuple(f"{row:08}" for row in range(5_000))


def page(count: int) -> Page:
    """Return a page with the first *count* of the images; a thousand are too long to be coded on the loop."""
    return Page((Part(Model(ROWS).span(HEAD, count), 0, count),), ROWS[count - 1])


async def test_a_page_is_coded_once_for_all_who_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who ask while it is wait for the same; a later page in its place is coded, and remembered, by itself."""
    opened, made = threading.Event(), []

    def held(body: bytes, coding: str) -> bytes:
        made.append(len(body))
        assert opened.wait(20)
        return zlib.compress(body, wbits=31)

    async def ask(count: int) -> bytes:
        got = await renderer.representation(page(count), KEY, Window(), base="", coding="gzip")
        assert got.coding == "gzip"
        return got.body

    async def open_up() -> None:
        opened.set()

    monkeypatch.setattr(codings, "encoded", held)
    renderer = PageRenderer(1 << 24)
    asking = [asyncio.create_task(ask(4_000)) for _ in range(5)] + [asyncio.create_task(ask(5_000)) for _ in range(5)]
    await asyncio.create_task(open_up())  # begun after them, so that all of them wait by then
    bodies = await asyncio.gather(*asking)
    assert len(set(bodies[:5])) == len(set(bodies[5:])) == 1
    assert len(made) == 2
    assert await ask(5_000) == bodies[5]
    assert len(made) == 2
    await renderer.close()
