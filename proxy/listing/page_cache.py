"""Rendered pages: each is rendered, tagged and compressed once and not once per request, and sent as 200 or 304."""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import suppress
from dataclasses import dataclass, field
from math import floor
from typing import Final

from cachetools import LRUCache

from proxy.caching.bounded import BodyEncoder
from proxy.caching.collapsing import RequestCollapser
from proxy.core.cache_key import CacheKey
from proxy.core.list_query import Window
from proxy.core.messages import Fields, Request, Response
from proxy.core.span import Page
from proxy.http.conditional import compute_entity_tag, is_matched_by
from proxy.http.negotiation import MIN_CODED_BYTES, choose_coding
from proxy.listing.rendering import LinkStyle, byte_range, render_page
from proxy.listing.request import ListRequest
from proxy.listing.service import ListResult
from proxy.observability.event_loop import run_in_thread

_MAX_TAGS: Final = 4096
_HASH_OFF_LOOP_BYTES: Final = 256 * 1024  # shorter bodies are hashed before a thread has started

_PageKey = tuple[str, Window, str]  # the cache key's digest, the window, the base of links


@dataclass(slots=True)
class Representation:
    """One body, its strong entity tag (quoted), and its content coding."""

    body: bytes
    entity_tag: str
    coding: str | None = None


@dataclass(slots=True)
class RenderedPage:
    """A page's representations by content coding; None is identity."""

    page: Page
    representations: dict[str | None, Representation] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        return 500 + sum(len(representation.body) for representation in self.representations.values())


class PageRenderer:
    """Renders pages and keeps the latest, *max_bytes* of them.

    The entity tag of a page is kept longer than the page, at about 300 bytes: hashing takes longer than rendering.
    """

    def __init__(self, max_bytes: int) -> None:
        self._pages: LRUCache[_PageKey, RenderedPage] = LRUCache(max_bytes, getsizeof=lambda page: page.size_bytes)
        self._tags: LRUCache[Hashable, str] = LRUCache(_MAX_TAGS)
        self._encoder = BodyEncoder()
        self._hashing: RequestCollapser[tuple[bytes, str]] = RequestCollapser()

    async def close(self) -> None:
        await self._hashing.close()
        await self._encoder.close()

    async def get_representation(
        self, page: Page, key: CacheKey, window: Window, *, base: str, coding: str | None
    ) -> Representation:
        """Return *page* with links on *base*, in *coding* if that makes it smaller."""
        page_key = (key.digest, window, base)
        rendered = self._pages.get(page_key)
        if rendered is None or rendered.page != page:
            rendered = await self._render(page, key, window, base)
            self._keep(page_key, rendered)
        plain = rendered.representations[None]
        if coding is None or len(plain.body) < MIN_CODED_BYTES:
            return plain
        if encoded := rendered.representations.get(coding):
            return encoded
        body = await self._encoder.encode((page_key, plain.entity_tag, coding), plain.body, coding)
        encoded = Representation(body, f'{plain.entity_tag[:-1]}-{coding}"', coding)
        if self._pages.get(page_key) is rendered:  # it was not evicted or replaced meanwhile
            rendered.representations[coding] = encoded
            self._keep(page_key, rendered)
        return encoded

    async def _render(self, page: Page, key: CacheKey, window: Window, base: str) -> RenderedPage:
        """Render *page* and tag it. A long body is hashed in a thread, once for all who ask meanwhile.

        The tag is kept under everything the body is made from, spans by their digests, so it can't be taken for the tag
        of other bytes. If a span has no digest, the tag is not kept.
        """
        parts = tuple((part.span.digest, part.start, part.stop) for part in page.parts)
        tag_key = (
            (key.digest, window, base, page.next_marker, *parts) if all(digest for digest, _, _ in parts) else None
        )
        tag = self._tags.get(tag_key)
        if tag is not None or _images_size_bytes(page) < _HASH_OFF_LOOP_BYTES:
            body = render_page(page, key, window, base)
            tag = tag or f'"{compute_entity_tag(body)}"'
        else:
            # The task holds the page and so its spans: no other span can have their ids until it ends.
            spans = tuple((id(part.span), part.start, part.stop) for part in page.parts)
            body, tag = await self._hashing.join(
                (key.digest, window, base, page.next_marker, spans),
                lambda: _render_and_hash(page, key, window, base),
            )
        if tag_key is not None:
            self._tags[tag_key] = tag
        return RenderedPage(page, {None: Representation(body, tag)})

    def _keep(self, page_key: _PageKey, rendered: RenderedPage) -> None:
        self._pages.pop(page_key, None)
        with suppress(ValueError):  # it is larger than the whole cache
            self._pages[page_key] = rendered


async def _render_and_hash(page: Page, key: CacheKey, window: Window, base: str) -> tuple[bytes, str]:
    body = render_page(page, key, window, base)
    return body, f'"{await run_in_thread(lambda: compute_entity_tag(body))}"'


def _images_size_bytes(page: Page) -> int:
    return sum(stop - start for start, stop in map(byte_range, page.parts))


_VARY: Final = "X-Auth-Token, X-Api-Version, Accept-Encoding"
# A trusted proxy's fields change absolute links.
_VARY_FORWARDED: Final = _VARY + ", Forwarded, X-Forwarded-Host, X-Forwarded-Proto, X-Forwarded-Prefix"


class PageResponder:
    """Makes responses of pages: 200 with the page, or 304 if the caller has it already."""

    def __init__(self, renderer: PageRenderer, links: LinkStyle) -> None:
        self._renderer = renderer
        self._links = links
        self._vary = _VARY_FORWARDED if links.trusted_proxies else _VARY

    async def respond(
        self, request: Request, list_request: ListRequest, result: ListResult, *, peer: str | None
    ) -> Response:
        """Return the response to *request*, which came from the address *peer*."""
        assert result.page is not None
        key, window = list_request.key, list_request.window
        coding = choose_coding(request.fields.get("accept-encoding"))
        base = self._links.base_for(request.fields, peer)
        made = await self._renderer.get_representation(result.page, key, window, base=base, coding=coding)
        lines = [
            ("Content-Type", "application/json; charset=UTF-8"),
            ("ETag", made.entity_tag),
            ("Cache-Control", f"private, max-age={max(0, floor(result.ttl_s))}"),
            ("Vary", self._vary),
        ]
        if result.cache_status.fwd is None or result.age_s >= 1.0:
            lines.append(("Age", str(floor(result.age_s))))
        if is_matched_by(request.fields.get_all("if-none-match"), made.entity_tag):
            return Response(304, Fields(lines))
        if made.coding is not None:
            lines.append(("Content-Encoding", made.coding))
        return Response(200, Fields(lines), made.body)
