"""Rendered pages, so that a page is spliced, tagged and compressed once and not once per request."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final

from proxy.core.coding import WORTH_CODING
from proxy.core.keys import ListingKey
from proxy.core.listing import Page
from proxy.core.page import rendered
from proxy.core.query import Window
from proxy.core.validators import entity_tag
from proxy.gateway.codings import Coder

_MOST_TAGS: Final = 4096


@dataclass(slots=True)
class Representation:
    """One body, its strong entity tag, quoted, and the content *coding* it is in."""

    body: bytes
    tag: str
    coding: str | None = None


@dataclass(slots=True)
class RenderedPage:
    """A page's representations by content coding; None is identity."""

    page: Page
    representations: dict[str | None, Representation] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """About what the representations take."""
        return 500 + sum(len(representation.body) for representation in self.representations.values())


class PageRenderer:
    """Renders pages and remembers the latest ones, *max_bytes* of them.

    Of a page that is not remembered its tag still is, about 300 bytes: a page takes longer to hash than to render.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._rendered: OrderedDict[tuple[str, Window, str], RenderedPage] = OrderedDict()
        self._bytes = 0
        self._tags: dict[Hashable, str] = {}
        self._coder = Coder()

    async def close(self) -> None:
        """End what is under way."""
        await self._coder.close()

    async def representation(
        self, page: Page, key: ListingKey, window: Window, *, base: str, coding: str | None
    ) -> Representation:
        """Return *page* for a caller whose links begin with *base*, in *coding* where that makes it smaller."""
        at = (key.digest, window, base)
        kept = self._rendered.get(at)
        if kept is None or kept.page != page:
            self._forget(at)
            body = rendered(page, key, window, base)
            kept = RenderedPage(page, {None: Representation(body, self._tag(body, page, at))})
            self._remember(at, kept)
        else:
            self._rendered.move_to_end(at)
        plain = kept.representations[None]
        if coding is None or len(plain.body) < WORTH_CODING:
            return plain
        if made := kept.representations.get(coding):
            return made
        body = await self._coder.coded((at, plain.tag, coding), plain.body, coding)
        made = Representation(body, f'{plain.tag[:-1]}-{coding}"', coding)
        if self._rendered.get(at) is kept:  # and not a later page, nor none for want of room
            self._forget(at)
            kept.representations[coding] = made
            self._remember(at, kept)
        return made

    async def coded(self, body: bytes, coding: str | None, *, at: Hashable) -> bytes:
        """Return *body* as `representation` would code it; see `Coder.coded` for *at*."""
        if coding is None or len(body) < WORTH_CODING:
            return body
        return await self._coder.coded(at, body, coding)

    def _tag(self, body: bytes, page: Page, at: tuple[str, Window, str]) -> str:
        """Return the entity tag of *body*, quoted.

        It is remembered under everything that *body* is made from, spans by their digests, so it is never taken for the
        tag of other bytes. Without a digest for each span it is not remembered.
        """
        if not all(part.span.known_as for part in page.parts):
            return f'"{entity_tag(body)}"'
        made_from = (*at, page.next_marker, *((part.span.known_as, part.start, part.stop) for part in page.parts))
        tag = self._tags.get(made_from)
        if tag is None:
            if len(self._tags) >= _MOST_TAGS:
                self._tags.clear()
            tag = self._tags[made_from] = f'"{entity_tag(body)}"'
        return tag

    def _remember(self, at: tuple[str, Window, str], kept: RenderedPage) -> None:
        size_bytes = kept.size_bytes
        if size_bytes > self._max_bytes:
            return
        self._rendered[at] = kept
        self._bytes += size_bytes
        while self._bytes > self._max_bytes:
            self._forget(next(iter(self._rendered)))

    def _forget(self, at: tuple[str, Window, str]) -> None:
        kept = self._rendered.pop(at, None)
        if kept is not None:
            self._bytes -= kept.size_bytes
