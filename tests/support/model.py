"""A listing as the upstream has it, small enough to be the reference for what every page must show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import orjson

from proxy.core.span import Page, Span
from proxy.listing.response_parser import ParsedList, parse_list


@dataclass(frozen=True, slots=True)
class Cut:
    """One page as the upstream cuts it: the *ids* shown, and the marker in its `next`, None on the last page."""

    ids: tuple[str, ...]
    next_marker: str | None


@dataclass(frozen=True, slots=True)
class Model:
    """An upstream with one listing: *rows* in order, some of them *hidden* by a policy after the page was cut.

    With *linked* off it is `/v2/cloudimages`: no links, an empty page is the end.
    """

    rows: Sequence[str]
    hidden: frozenset[str] = frozenset()
    linked: bool = True

    def cut(self, after: str, limit: int) -> Cut:
        """Return the page of *limit* rows after the marker *after*; a full one has a next, even if it is the last."""
        begin = self.rows.index(after) + 1 if after else 0
        rows = self.rows[begin : begin + limit]
        shown = tuple(row for row in rows if row not in self.hidden)
        full = len(rows) == limit and limit > 0
        return Cut(shown, rows[-1] if full and self.linked else None)

    def span(self, after: str, limit: int, *, fetched_at: float = 0.0) -> Span:
        """Return what the proxy keeps of that page."""
        page = self.cut(after, limit)
        made = parse_list(body(page))
        assert isinstance(made, ParsedList)
        return made.to_span(
            marker=after,
            limit=limit,
            without_next=not self.linked,
            fetched_at=fetched_at,
            lifetime_s=60.0,
            generation="",
        )

    @property
    def shown(self) -> tuple[str, ...]:
        """Every id that a whole crawl shows."""
        return tuple(row for row in self.rows if row not in self.hidden)


def image(image_id: str) -> bytes:
    """Return one image's bytes, with a space where a parser would lose it."""
    return b'{"id": %b}' % orjson.dumps(image_id)


def body(page: Cut) -> bytes:
    """Return *page* as a list answer."""
    link = b',"next":%b' % orjson.dumps(f"/v2/images?marker={page.next_marker}") if page.next_marker else b""
    return b'{"schema":"/v2/schemas/images","images":[%b]%b}' % (b", ".join(map(image, page.ids)), link)


def ids_of(page: Page) -> tuple[str, ...]:
    """Return the ids that *page* shows, read from the bytes of its parts."""
    return tuple(orjson.loads(piece)["id"] for piece in _pieces(page))


def _pieces(page: Page) -> Iterable[bytes]:
    for part in page.parts:
        for at in range(part.start, part.stop):
            yield part.span.body[part.span.starts[at] : part.span.ends[at]]
