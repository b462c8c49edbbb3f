"""Rendered pages, so that a page is spliced, tagged and compressed once and not once per request.

Pages as they go out: the head before the body, or 304 where the caller has it, and how they may be repeated.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from math import floor
from typing import Final

from proxy.caching.bounded import Coder
from proxy.caching.collapsing import Coalescer
from proxy.core.cache_key import ListingKey
from proxy.core.list_query import Window
from proxy.core.messages import Fields, Request, Response
from proxy.core.span import Page
from proxy.http.conditional import entity_tag, none_match
from proxy.http.negotiation import WORTH_CODING, chosen
from proxy.listing.lookup import Listed, Repeatable
from proxy.listing.rendering import LinkStyle, extent, rendered
from proxy.listing.request import ListAsk
from proxy.observability.event_loop import run_in_thread

_MOST_TAGS: Final = 4096
_HASH_OFF_LOOP_BYTES: Final = 256 * 1024  # less is hashed sooner than a thread begins


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
        self._hashing: Coalescer[tuple[bytes, str]] = Coalescer()

    async def close(self) -> None:
        """End what is under way."""
        await self._hashing.close()
        await self._coder.close()

    async def representation(
        self, page: Page, key: ListingKey, window: Window, *, base: str, coding: str | None
    ) -> Representation:
        """Return *page* for a caller whose links begin with *base*, in *coding* where that makes it smaller."""
        at = (key.digest, window, base)
        kept = self._rendered.get(at)
        if kept is None or kept.page != page:
            kept = await self._render(page, key, window, base, at)
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
            self._forget(at)  # before it grows: its size is subtracted
            kept.representations[coding] = made
            self._remember(at, kept)
        return made

    async def _render(
        self, page: Page, key: ListingKey, window: Window, base: str, at: tuple[str, Window, str]
    ) -> RenderedPage:
        """Return *page* rendered and tagged. A long body is hashed in a thread, once for all who ask meanwhile.

        The tag is remembered under everything that the body is made from, spans by their digests, so it is never taken
        for the tag of other bytes. Without a digest for each span it is not remembered.
        """
        known = all(part.span.known_as for part in page.parts)
        parts = tuple((part.span.known_as, part.start, part.stop) for part in page.parts)
        made_from = (*at, page.next_marker, *parts) if known else None
        tag = self._tags.get(made_from)
        if tag is not None or _images_bytes(page) < _HASH_OFF_LOOP_BYTES:
            body = rendered(page, key, window, base)
            tag = tag or f'"{entity_tag(body)}"'
        else:
            # The flight keeps the page, and so its spans: until it ends no other span has their ids.
            spans = tuple((id(part.span), part.start, part.stop) for part in page.parts)
            body, tag = await self._hashing.join(
                (at, page.next_marker, spans), lambda: _render_and_hash(page, key, window, base)
            )
        if made_from is not None:
            if len(self._tags) >= _MOST_TAGS:
                self._tags.clear()
            self._tags[made_from] = tag
        return RenderedPage(page, {None: Representation(body, tag)})

    def _remember(self, at: tuple[str, Window, str], kept: RenderedPage) -> None:
        self._forget(at)
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


async def _render_and_hash(page: Page, key: ListingKey, window: Window, base: str) -> tuple[bytes, str]:
    body = rendered(page, key, window, base)
    return body, f'"{await run_in_thread(lambda: entity_tag(body))}"'


def _images_bytes(page: Page) -> int:
    return sum(stop - start for start, stop in map(extent, page.parts))


_VARY: Final = "X-Auth-Token, X-Api-Version, Accept-Encoding"
# What trusted proxies may say of a caller's way here changes absolute links.
_VARY_FORWARDED: Final = _VARY + ", Forwarded, X-Forwarded-Host, X-Forwarded-Proto, X-Forwarded-Prefix"


class PageAnswers:
    """Answers with pages of *renderer*'s, *links* in this style."""

    def __init__(self, renderer: PageRenderer, links: LinkStyle) -> None:
        self._renderer = renderer
        self._links = links
        self._vary = _VARY_FORWARDED if links.trusted else _VARY

    async def answer(
        self, request: Request, ask: ListAsk, got: Listed, *, peer: str | None
    ) -> tuple[Response, Repeatable | None]:
        """Return the answer to *request*, which came from *peer*: the page in *got*, and leave to repeat it, if any."""
        assert got.page is not None
        coding = chosen(request.fields.get("accept-encoding"))
        base = self._links.base(request.fields, peer)
        made = await self._renderer.representation(got.page, ask.key, ask.window, base=base, coding=coding)
        return self._response(request, got, made), got.repeatable

    def _response(self, request: Request, got: Listed, made: Representation) -> Response:
        lines = [
            ("Content-Type", "application/json; charset=UTF-8"),
            ("ETag", made.tag),
            ("Cache-Control", f"private, max-age={max(0, floor(got.ttl_s))}"),
            ("Vary", self._vary),
        ]
        if got.cache_status.fwd is None or got.age_s >= 1.0:
            lines.append(("Age", str(floor(got.age_s))))
        if none_match(request.fields.all("if-none-match"), made.tag):
            return Response(304, Fields(lines))
        if made.coding is not None:
            lines.append(("Content-Encoding", made.coding))
        return Response(200, Fields(lines), made.body)
