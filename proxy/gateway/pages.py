"""Rendered pages, so that a page is spliced, tagged and compressed once and not once per request."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from proxy.core.coding import WORTH_CODING
from proxy.core.keys import ListingKey
from proxy.core.listing import Page
from proxy.core.page import rendered
from proxy.core.query import Window
from proxy.core.validators import entity_tag
from proxy.gateway.codings import Coder


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
    """Renders pages and remembers the latest ones, *max_bytes* of them."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._rendered: OrderedDict[tuple[str, Window, str], RenderedPage] = OrderedDict()
        self._bytes = 0
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
            kept = RenderedPage(page, {None: Representation(body, f'"{entity_tag(body)}"')})
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

    def _remember(self, at: tuple[str, Window, str], kept: RenderedPage) -> None:
        self._rendered[at] = kept
        self._bytes += kept.size_bytes
        while self._bytes > self._max_bytes and self._rendered:
            self._forget(next(iter(self._rendered)))

    def _forget(self, at: tuple[str, Window, str]) -> None:
        kept = self._rendered.pop(at, None)
        if kept is not None:
            self._bytes -= kept.size_bytes
