"""A reference listing, spans cut from it anywhere, and windows that must come out as the reference would give them."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from proxy.core.span import LIST_START, Missing, Page, Span, SpanSlice, assemble_page, follow_slices
from tests.support.model import Model, ids_of

_ROWS = st.integers(0, 24).map(lambda count: tuple(f"i{number:02}" for number in range(count)))


class Shelf:
    """Spans by the marker they start after; also finds what follows an image inside one, as every store does."""

    def __init__(self, spans: Iterable[Span] = ()) -> None:
        self.spans: list[Span] = []
        for span in spans:
            self.put(span)

    def put(self, span: Span) -> None:
        self.spans = [kept for kept in self.spans if kept.marker != span.marker] + [span]

    def after(self, marker: str) -> SpanSlice | None:
        inside = [SpanSlice(span, span.ids.index(marker) + 1) for span in self.spans if marker in span.ids]
        begins = [SpanSlice(span, 0) for span in self.spans if span.marker == marker]
        found = begins + [piece for piece in inside if piece.count or piece.span.next_marker != marker]
        return max(found, key=lambda piece: piece.span.fetched_at, default=None)


@st.composite
def cuts(draw: st.DrawFn, rows: tuple[str, ...]) -> list[tuple[str, int]]:
    """Return places where spans are cut: the marker each begins after, and the limit it is asked with."""
    return draw(st.lists(st.tuples(st.sampled_from((LIST_START, *rows)), st.integers(1, 30)), max_size=6))


def asked(model: Model, shelf: Shelf, after: str, limit: int, *, joinable: bool) -> tuple[Page, int]:
    """Return the page as the gateway makes it, fetching each gap, and how many fetches that took."""
    gap, fetches = Missing(after, limit, ()), 0
    while True:
        found = assemble_page(
            after, limit, [*gap.slices, *follow_slices(gap.marker, gap.count, shelf.after)], can_join=joinable
        )
        if isinstance(found, Page):
            return found, fetches
        fetches += 1
        assert fetches < 50
        span = model.span(found.marker, found.count, fetched_at=float(fetches))
        shelf.put(span)
        page = assemble_page(after, limit, [*found.slices, SpanSlice(span, 0)], can_join=joinable)
        if isinstance(page, Page):
            return page, fetches
        gap = page


def drawn(data: st.DataObject, model: Model) -> tuple[Shelf, str, int]:
    rows = tuple(model.rows)
    spans = [
        model.span(after, limit, fetched_at=-float(number))
        for number, (after, limit) in enumerate(data.draw(cuts(rows)))
    ]
    after = data.draw(st.sampled_from((LIST_START, *rows)))
    return Shelf(spans), after, data.draw(st.integers(1, 30))


@given(_ROWS, st.booleans(), st.data())
def test_a_window_is_what_the_upstream_would_have_given(
    rows: tuple[str, ...], joinable: bool, data: st.DataObject
) -> None:
    """From spans cut anywhere, in any order, every window comes out with the reference's images and its next marker."""
    model = Model(rows)
    shelf, after, limit = drawn(data, model)
    page, _ = asked(model, shelf, after, limit, joinable=joinable)
    reference = model.cut(after, limit)
    assert ids_of(page) == reference.ids
    assert page.next_marker == reference.next_marker


@given(_ROWS, st.booleans(), st.data())
def test_a_window_without_links_has_the_same_images(rows: tuple[str, ...], joinable: bool, data: st.DataObject) -> None:
    """Of a list without links every window shows the reference's images."""
    model = Model(rows, linked=False)
    shelf, after, limit = drawn(data, model)
    page, _ = asked(model, shelf, after, limit, joinable=joinable)
    assert ids_of(page) == model.cut(after, limit).ids


@given(_ROWS, st.data())
def test_one_whole_span_answers_every_window(rows: tuple[str, ...], data: st.DataObject) -> None:
    """What lies in stored spans is never fetched again, whatever the marker and the limit."""
    model = Model(rows)
    shelf = Shelf([model.span(LIST_START, len(rows) + 1)])
    after, limit = data.draw(st.sampled_from((LIST_START, *rows))), data.draw(st.integers(1, 30))
    page, fetches = asked(model, shelf, after, limit, joinable=True)
    assert ids_of(page) == model.cut(after, limit).ids
    assert fetches == 0


@given(_ROWS, st.sets(st.integers(0, 23)), st.data())
def test_a_crawl_shows_every_image_once(rows: tuple[str, ...], hidden: set[int], data: st.DataObject) -> None:
    """Whatever was stored before and whatever rows a policy hides, following next loses and repeats nothing."""
    model = Model(rows, frozenset(row for number, row in enumerate(rows) if number in hidden))
    shelf, _, limit = drawn(data, model)
    after: str | None = LIST_START
    crawled: list[str] = []
    for _ in range(60):
        page, _ = asked(model, shelf, after or LIST_START, limit, joinable=True)
        shown = ids_of(page)
        assert len(shown) <= limit
        crawled += shown
        after = page.next_marker
        if after is None:
            break
    assert tuple(crawled) == model.shown


@given(_ROWS, st.sets(st.integers(0, 23)), st.data())
def test_a_gap_never_asks_for_more_than_the_window(
    rows: tuple[str, ...], hidden: set[int], data: st.DataObject
) -> None:
    """What is missing is at most what was asked for, and begins where the pieces end."""
    model = Model(rows, frozenset(row for number, row in enumerate(rows) if number in hidden))
    shelf, after, limit = drawn(data, model)
    found = assemble_page(after, limit, follow_slices(after, limit, shelf.after), can_join=True)
    if isinstance(found, Missing):
        assert 0 < found.count <= limit
        assert found.marker == (found.slices[-1].span.next_marker if found.slices else after)


@given(_ROWS, st.data())
def test_no_page_is_longer_than_its_limit(rows: tuple[str, ...], data: st.DataObject) -> None:
    """A page holds its limit at most."""
    model = Model(rows)
    shelf, after, limit = drawn(data, model)
    found = assemble_page(after, limit, follow_slices(after, limit, shelf.after), can_join=True)
    if isinstance(found, Page):
        assert len(ids_of(found)) <= limit
