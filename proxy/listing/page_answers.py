"""Pages as they go out: the head before the body, or 304 where the caller has it, and how they may be repeated."""

from __future__ import annotations

from math import floor
from typing import Final

from proxy.core.messages import Fields, Request, Response
from proxy.http.coding import chosen
from proxy.http.validators import none_match
from proxy.listing.again import Again
from proxy.listing.links import LinkStyle
from proxy.listing.listed import Listed, Repeatable
from proxy.listing.page_cache import PageRenderer, Representation
from proxy.listing.request import ListAsk

_VARY: Final = "X-Auth-Token, X-Api-Version, Accept-Encoding"
# What trusted proxies may say of a caller's way here changes absolute links.
_VARY_FORWARDED: Final = _VARY + ", Forwarded, X-Forwarded-Host, X-Forwarded-Proto, X-Forwarded-Prefix"


class PageAnswers:
    """Answers with pages of *renderer*'s, *links* in this style; *again* makes bodies anew where none are kept."""

    def __init__(self, renderer: PageRenderer, links: LinkStyle, again: Again | None) -> None:
        self._renderer = renderer
        self._links = links
        self._again = again
        self._vary = _VARY_FORWARDED if links.trusted else _VARY

    async def answer(
        self, request: Request, ask: ListAsk, got: Listed, *, peer: str | None
    ) -> tuple[Response, Repeatable | None]:
        """Return the answer to *request*, which came from *peer*: the page in *got*, and leave to repeat it, if any."""
        assert got.page is not None
        coding, repeatable = chosen(request.fields.get("accept-encoding")), got.repeatable
        base = self._links.base(request.fields, peer)
        if repeatable is not None and self._again is not None:
            repeatable = self._again.repeatable(repeatable, got.page, ask, base=base, coding=coding)
        made = await self._renderer.representation(got.page, ask.key, ask.window, base=base, coding=coding)
        return self._response(request, got, made), repeatable

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
