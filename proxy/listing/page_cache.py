"""Rendered pages, so that a page is spliced, tagged and compressed once and not once per request.

Pages as they go out: the head before the body, or 304 where the caller has it, and how they may be repeated.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from math import floor
from typing import Final

from proxy.caching.bounded import BodyEncoder
from proxy.caching.collapsing import RequestCollapser
from proxy.core.cache_key import CacheKey
from proxy.core.list_query import Window
from proxy.core.messages import Fields, Request, Response
from proxy.core.span import Page
from proxy.http.conditional import compute_entity_tag, is_matched_by
from proxy.http.negotiation import MIN_CODED_BYTES, choose_coding
from proxy.listing.lookup import ListResult, ReplayTerms
from proxy.listing.rendering import LinkStyle, byte_range, render_page
from proxy.listing.request import ListRequest
from proxy.observability.event_loop import run_in_thread

_MAX_TAGS: Final = 4096
_HASH_OFF_LOOP_BYTES: Final = 256 * 1024  # less is hashed sooner than a thread begins


@dataclass(slots=True)
class Representation:
    """One body, its strong entity tag, quoted, and the content *coding* it is in."""

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
        self._coder = BodyEncoder()
        self._hashing: RequestCollapser[tuple[bytes, str]] = RequestCollapser()

    async def close(self) -> None:
        """End what is under way."""
        await self._hashing.close()
        await self._coder.close()

    async def get_representation(
        self, page: Page, key: CacheKey, window: Window, *, base: str, coding: str | None
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
        if coding is None or len(plain.body) < MIN_CODED_BYTES:
            return plain
        if made := kept.representations.get(coding):
            return made
        body = await self._coder.encode((at, plain.entity_tag, coding), plain.body, coding)
        made = Representation(body, f'{plain.entity_tag[:-1]}-{coding}"', coding)
        if self._rendered.get(at) is kept:  # and not a later page, nor none for want of room
            self._forget(at)  # before it grows: its size is subtracted
            kept.representations[coding] = made
            self._remember(at, kept)
        return made

    async def _render(
        self, page: Page, key: CacheKey, window: Window, base: str, at: tuple[str, Window, str]
    ) -> RenderedPage:
        """Return *page* rendered and tagged. A long body is hashed in a thread, once for all who ask meanwhile.

        The tag is remembered under everything that the body is made from, spans by their digests, so it is never taken
        for the tag of other bytes. Without a digest for each span it is not remembered.
        """
        known = all(part.span.digest for part in page.parts)
        parts = tuple((part.span.digest, part.start, part.stop) for part in page.parts)
        made_from = (*at, page.next_marker, *parts) if known else None
        tag = self._tags.get(made_from)
        if tag is not None or _images_size_bytes(page) < _HASH_OFF_LOOP_BYTES:
            body = render_page(page, key, window, base)
            tag = tag or f'"{compute_entity_tag(body)}"'
        else:
            # The flight keeps the page, and so its spans: until it ends no other span has their ids.
            spans = tuple((id(part.span), part.start, part.stop) for part in page.parts)
            body, tag = await self._hashing.join(
                (at, page.next_marker, spans), lambda: _render_and_hash(page, key, window, base)
            )
        if made_from is not None:
            if len(self._tags) >= _MAX_TAGS:
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


async def _render_and_hash(page: Page, key: CacheKey, window: Window, base: str) -> tuple[bytes, str]:
    body = render_page(page, key, window, base)
    return body, f'"{await run_in_thread(lambda: compute_entity_tag(body))}"'


def _images_size_bytes(page: Page) -> int:
    return sum(stop - start for start, stop in map(byte_range, page.parts))


_VARY: Final = "X-Auth-Token, X-Api-Version, Accept-Encoding"
# What trusted proxies may say of a caller's way here changes absolute links.
_VARY_FORWARDED: Final = _VARY + ", Forwarded, X-Forwarded-Host, X-Forwarded-Proto, X-Forwarded-Prefix"


class PageResponder:
    """Answers with pages of *renderer*'s, *links* in this style."""

    def __init__(self, renderer: PageRenderer, links: LinkStyle) -> None:
        self._renderer = renderer
        self._links = links
        self._vary = _VARY_FORWARDED if links.trusted_proxies else _VARY

    async def respond(
        self, request: Request, list_request: ListRequest, result: ListResult, *, peer: str | None
    ) -> tuple[Response, ReplayTerms | None]:
        """Return the answer to *request*, which came from *peer*: the page in *result*, and leave to repeat it, if
        any.
        """
        assert result.page is not None
        coding = choose_coding(request.fields.get("accept-encoding"))
        base = self._links.base_for(request.fields, peer)
        made = await self._renderer.get_representation(
            result.page, list_request.key, list_request.window, base=base, coding=coding
        )
        return self._make_response(request, result, made), result.replay_terms

    def _make_response(self, request: Request, result: ListResult, made: Representation) -> Response:
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
