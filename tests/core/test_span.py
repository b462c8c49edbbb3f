"""Windows onto spans: single cases of `cover` and `chain`."""

from dataclasses import replace

import pytest

from proxy.core.span import LIST_START, Missing, Page, Span, SpanSlice, assemble_page, follow_slices
from tests.support.model import Model, ids_of

ROWS = tuple("abcdefghij")
MODEL = Model(ROWS)
UNLINKED = Model(ROWS, linked=False)


def covered(after: str, limit: int, *pieces: SpanSlice, joinable: bool = True) -> Page | Missing:
    return assemble_page(after, limit, pieces, can_join=joinable)


def whole(span: Span) -> SpanSlice:
    return SpanSlice(span, 0)


def shown(page: Page | Missing) -> tuple[tuple[str, ...], str | None]:
    assert isinstance(page, Page), page
    return ids_of(page), page.next_marker


def test_nothing_stored_is_all_missing() -> None:
    """Without pieces the gap is the window itself."""
    assert covered("c", 4) == Missing("c", 4, ())


def test_a_short_window_lies_in_a_long_span() -> None:
    """A page of two comes out of a span of ten, with the next marker of a page of two."""
    assert shown(covered(LIST_START, 2, whole(MODEL.span(LIST_START, 100)))) == (("a", "b"), "b")


def test_a_window_may_begin_inside_a_span() -> None:
    """The rest of a span after one of its images answers a window there."""
    assert shown(covered("c", 3, SpanSlice(MODEL.span(LIST_START, 100), 3))) == (("d", "e", "f"), "f")


def test_a_long_window_is_joined_from_spans_that_meet() -> None:
    """Three spans end to end are one page."""
    spans = [MODEL.span(LIST_START, 3), MODEL.span("c", 3), MODEL.span("f", 100)]
    assert shown(covered(LIST_START, 8, *map(whole, spans))) == (ROWS[:8], "h")
    assert shown(covered(LIST_START, 20, *map(whole, spans))) == (ROWS, None)


def test_what_is_missing_begins_at_the_last_known_marker() -> None:
    """The gap behind two spans names the second's end and the rows still wanted."""
    pieces = (whole(MODEL.span(LIST_START, 3)), whole(MODEL.span("c", 3)))
    assert covered(LIST_START, 10, *pieces) == Missing("f", 4, pieces)


def test_orders_under_which_images_move_are_never_joined() -> None:
    """Where images move a page comes from one span, or is fetched whole."""
    pieces = (whole(MODEL.span(LIST_START, 3)), whole(MODEL.span("c", 3)))
    assert covered(LIST_START, 5, *pieces, joinable=False) == Missing(LIST_START, 5, ())
    assert shown(covered(LIST_START, 2, *pieces, joinable=False)) == (("a", "b"), "b")


@pytest.mark.parametrize(("limit", "marker"), [(9, "i"), (10, "j"), (11, None), (99, None)])
def test_a_full_page_has_a_next_and_a_short_one_has_none(limit: int, marker: str | None) -> None:
    """As in Glance a page that is full names a next one, even where nothing follows."""
    assert shown(covered(LIST_START, limit, whole(MODEL.span(LIST_START, 100)))) == (ROWS[:limit], marker)


def test_an_upstream_that_knows_its_end_is_believed() -> None:
    """A span that came full and yet without a link ends the listing."""
    knowing = replace(MODEL.span(LIST_START, 10), next_marker=None)
    assert shown(covered(LIST_START, 10, whole(knowing))) == (ROWS, None)


def test_an_empty_listing_is_a_page() -> None:
    """No images and no next."""
    assert shown(covered(LIST_START, 5, whole(Model(()).span(LIST_START, 5)))) == ((), None)


def test_an_empty_last_page_is_a_page() -> None:
    """The page after a full last one is empty."""
    assert shown(covered("j", 5, whole(MODEL.span("j", 5)))) == ((), None)


def test_a_span_with_hidden_rows_is_given_whole_or_not_at_all() -> None:
    """Nobody knows where in it the hidden rows were, so it answers the page it was fetched as."""
    span = replace(Model(ROWS, frozenset("bd")).span(LIST_START, 5))
    assert shown(covered(LIST_START, 5, whole(span))) == (("a", "c", "e"), "e")
    assert covered(LIST_START, 4, whole(span)) == Missing(LIST_START, 4, ())
    assert covered("a", 2, SpanSlice(span, 1)) == Missing("a", 2, ())


def test_hidden_rows_count_towards_the_page() -> None:
    """Behind five rows, two of them hidden, a page of eight lacks three."""
    span = Model(ROWS, frozenset("bd")).span(LIST_START, 5)
    assert covered(LIST_START, 8, whole(span)) == Missing("e", 3, (whole(span),))


def test_the_end_of_a_span_may_be_a_marker_that_was_not_shown() -> None:
    """Where the last row is hidden, next leads on after it all the same."""
    assert shown(covered(LIST_START, 4, whole(Model(ROWS, frozenset("d")).span(LIST_START, 4)))) == (
        ("a", "b", "c"),
        "d",
    )


def test_a_span_with_nulls_answers_only_the_page_that_it_was() -> None:
    """Where a sort key is null Glance's pages are no windows: neither cut nor joined, only repeated."""
    span = replace(MODEL.span(LIST_START, 5), has_nulls=True)
    assert shown(covered(LIST_START, 5, whole(span))) == (ROWS[:5], "e")
    assert covered(LIST_START, 4, whole(span)) == Missing(LIST_START, 4, ())
    assert covered(LIST_START, 6, whole(span)) == Missing(LIST_START, 6, ())
    assert covered("b", 3, SpanSlice(span, 2)) == Missing("b", 3, ())


def test_spans_that_show_an_image_twice_are_not_joined() -> None:
    """An image that moved between two fetches makes the whole page be fetched anew."""
    moved = Model(tuple("xyzab"))
    assert covered(
        LIST_START, 6, whole(MODEL.span(LIST_START, 3)), whole(replace(moved.span("z", 2), marker="c"))
    ) == Missing(LIST_START, 6, ())


def test_a_short_list_without_links_is_a_complete_page() -> None:
    """Of `/v2/cloudimages` a span shorter than asked completes a page, and so does an empty one."""
    assert shown(covered(LIST_START, 50, whole(UNLINKED.span(LIST_START, 50))))[0] == ROWS
    assert shown(covered("j", 50, whole(UNLINKED.span("j", 50))))[0] == ()


def test_a_full_list_without_links_goes_on() -> None:
    """A full span without links may have more behind it."""
    piece = whole(UNLINKED.span(LIST_START, 4))
    assert covered(LIST_START, 6, piece) == Missing("d", 2, (piece,))


def test_a_chain_follows_end_markers() -> None:
    """Pieces are looked up one after the other until they hold enough images."""
    spans = {
        span.marker: SpanSlice(span, 0) for span in (MODEL.span(LIST_START, 3), MODEL.span("c", 3), MODEL.span("f", 9))
    }
    assert [piece.span.marker for piece in follow_slices(LIST_START, 5, spans.get)] == [LIST_START, "c"]
    assert [piece.span.marker for piece in follow_slices(LIST_START, 99, spans.get)] == [LIST_START, "c", "f"]
    del spans["c"]
    assert [piece.span.marker for piece in follow_slices(LIST_START, 99, spans.get)] == [LIST_START]


def test_a_chain_of_spans_that_lead_in_a_circle_ends() -> None:
    """Empty spans whose markers name each other don't hold a request up."""
    empty = replace(Model(()).span(LIST_START, 5))
    circle = {
        "a": SpanSlice(replace(empty, marker="a", next_marker="b"), 0),
        "b": SpanSlice(replace(empty, marker="b", next_marker="a"), 0),
    }
    assert len(follow_slices("a", 5, circle.get)) < 5000
    itself = {"a": SpanSlice(replace(empty, marker="a", next_marker="a"), 0)}
    assert follow_slices("a", 5, itself.get) == []
