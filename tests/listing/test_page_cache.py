"""Rendered pages, remembered."""

from __future__ import annotations

import asyncio
import threading
import zlib
from dataclasses import dataclass, field

import pytest

from proxy.caching import bounded as codings
from proxy.core.cache_key import CacheKey
from proxy.core.list_query import Window
from proxy.core.partition import Partition
from proxy.core.span import LIST_START, Page, PagePart
from proxy.http import conditional as validators
from proxy.listing import page_cache as pages
from proxy.listing.page_cache import PageRenderer
from tests.support.model import Model

KEY = CacheKey(Partition("token", "0" * 32), "", "/v2/images", "")
ROWS = tuple(f"{row:08}" for row in range(5_000))


def page(count: int) -> Page:
    """Return a page with the first *count* of the images; a thousand are too long to be coded on the loop."""
    return Page((PagePart(Model(ROWS).span(LIST_START, count), 0, count),), ROWS[count - 1])


async def test_a_page_is_coded_once_for_all_who_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who ask while it is wait for the same; a later page in its place is coded, and remembered, by itself."""
    opened, made = threading.Event(), []

    def held(body: bytes, coding: str) -> bytes:
        made.append(len(body))
        assert opened.wait(20)
        return zlib.compress(body, wbits=31)

    async def ask(count: int) -> bytes:
        got = await renderer.get_representation(page(count), KEY, Window(), base="", coding="gzip")
        assert got.coding == "gzip"
        return got.body

    async def open_up() -> None:
        opened.set()

    monkeypatch.setattr(codings, "encode", held)
    renderer = PageRenderer(1 << 24)
    asking = [asyncio.create_task(ask(4_000)) for _ in range(5)] + [asyncio.create_task(ask(5_000)) for _ in range(5)]
    await asyncio.create_task(open_up())  # begun after them, so that all of them wait by then
    bodies = await asyncio.gather(*asking)
    assert len(set(bodies[:5])) == len(set(bodies[5:])) == 1
    assert len(made) == 2
    assert await ask(5_000) == bodies[5]
    assert len(made) == 2
    await renderer.close()


@dataclass
class Hashing:
    """Hashes bodies once *opened*; *threads* are those that did."""

    opened: threading.Event = field(default_factory=threading.Event)
    threads: list[threading.Thread] = field(default_factory=list)

    def __call__(self, body: bytes) -> str:
        assert self.opened.wait(20)
        self.threads.append(threading.current_thread())
        return validators.compute_entity_tag(body)


async def test_long_page_is_hashed_off_the_loop_once_for_all_who_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop goes on meanwhile; another page in its place is hashed by itself, and the latest is remembered."""
    hashing = Hashing()
    monkeypatch.setattr(pages, "compute_entity_tag", hashing)
    monkeypatch.setattr(pages, "_HASH_OFF_LOOP_BYTES", 50_000)
    renderer = PageRenderer(1 << 24)

    async def ask(asked: Page) -> tuple[bytes, str]:
        got = await renderer.get_representation(asked, KEY, Window(), base="", coding=None)
        return got.body, got.entity_tag

    async def open_up() -> None:
        hashing.opened.set()

    span = Model(ROWS).span(LIST_START, 5_000)
    first, second = (Page((PagePart(span, 0, count),), ROWS[count - 1]) for count in (4_000, 5_000))
    asking = [asyncio.create_task(ask(each)) for each in (first, first, second, first)]
    await asyncio.create_task(open_up())  # begun after them, so that all of them wait by then
    answers = await asyncio.gather(*asking)
    assert answers[0] == answers[1] == answers[3] != answers[2]
    assert all(tag == f'"{validators.compute_entity_tag(body)}"' for body, tag in answers)
    assert len(hashing.threads) == 2
    assert threading.main_thread() not in hashing.threads
    assert [await ask(first), await ask(first)] == [answers[0]] * 2
    assert len(hashing.threads) <= 3, "one of both is remembered, the latest"
    await renderer.close()


async def test_page_of_ordinary_size_is_hashed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """To hand a small body to a thread would take longer than to hash it."""
    hashing = Hashing()
    hashing.opened.set()
    monkeypatch.setattr(pages, "compute_entity_tag", hashing)
    renderer = PageRenderer(1 << 24)
    await renderer.get_representation(page(200), KEY, Window(), base="", coding=None)
    assert hashing.threads == [threading.main_thread()]
    await renderer.close()
