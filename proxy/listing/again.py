"""Pages that are given again though nobody keeps them: only what they were made from is known.

Where no memory holds rendered pages, a page is made anew from the store for each request. What was decided about it, to
whom it may be given, under which head and until when, holds all the same for as long as the store has the very spans it
was made from. So those are taken from there, each known by its digest, and nothing is decided again.

Why a mistake here can't show one caller what belongs to another: a page is made of nothing but spans with the digests
that it was made of when it was decided about, and a digest covers the listing's name, partition included.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

from proxy.core.cache_key import ListingKey
from proxy.core.span import Mark, Page
from proxy.core.values import immutable
from proxy.errors import StoreUnavailableError
from proxy.listing.listed import Repeatable
from proxy.listing.page_cache import PageRenderer
from proxy.listing.rendering import Extent, assembled, extent, opening
from proxy.listing.request import ListAsk
from proxy.storage.base import SpanStore
from proxy.storage.circuit_breaker import begin_request

_PAGE_BYTES: Final = 300
_MARK_BYTES: Final = 450


@immutable
class SamePage:
    """How to make one page again: from the spans with these *marks*, of which it shows these *extents*.

    *begun* is its body up to the first image, *coding* the content coding it goes out in. Neither an image nor a token
    is kept here.
    """

    key: ListingKey
    marks: tuple[Mark, ...]
    extents: tuple[Extent, ...]
    begun: bytes
    coding: str | None

    @property
    def size_bytes(self) -> int:
        """About what this takes in memory, but for the key."""
        return _PAGE_BYTES + len(self.begun) + sum(_MARK_BYTES + len(mark.after) for mark in self.marks)


class Again:
    """Makes pages anew from *store*. *clock* gives epoch seconds."""

    def __init__(self, store: SpanStore, renderer: PageRenderer, *, clock: Callable[[], float]) -> None:
        self._store = store
        self._renderer = renderer
        self._clock = clock

    def repeatable(
        self, allowed: Repeatable, page: Page, ask: ListAsk, *, base: str, coding: str | None
    ) -> Repeatable | None:
        """Return *allowed* with the means to make the body of *page* anew, as it was given to *ask*.

        None if one of its spans has no digest, by which it could be told from a later one.
        """
        marks = tuple([mark for part in page.parts if (mark := part.span.mark)])
        if not marks or len(marks) < len(page.parts):
            return None
        begun = opening(page, ask.key, ask.window, base)
        same = SamePage(ask.key, marks, tuple(map(extent, page.parts)), begun, coding)
        holds_bytes = allowed.holds_bytes + same.size_bytes
        return replace(allowed, again=partial(self.body, same), holds_bytes=holds_bytes)

    async def body(self, same: SamePage, wanted: bool) -> bytes | None:
        """Return the body of the page *same*, None if the store is away or no longer has the spans it was made from.

        If no body is *wanted*, return an empty one in its place.
        """
        begin_request()
        try:
            held = await self._store.bodies(same.key, same.marks, now=self._clock())
        except StoreUnavailableError:
            return None
        if held is None:
            return None
        if not wanted:
            return b""
        body = assembled(same.begun, list(zip(held, same.extents, strict=True)))
        return await self._renderer.coded(body, same.coding, at=same)
