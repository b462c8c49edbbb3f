"""Windows onto spans: single cases of `cover` and `chain`."""

from dataclasses import replace

import pytest

from proxy.core.span import HEAD, Gap, Page, Piece, Span, chain, cover
from tests.model import Model, ids_of

ROWS = tuple("abcdefghij")
MODEL = Model(ROWS)
UNLINKED = Model(ROWS, linked=False)


def covered(after: str, limit: int, *pieces: Piece, joinable: bool = True) -> Page | Gap:
    return cover(after, limit, pieces, joinable=joinable)


def whole(span: Span) -> Piece:
    return Piece(span, 0)


def shown(page: Page | Gap) -> tuple[tuple[str, ...], str | None]:
    assert isinstance(page, Page), page
    return ids_of(page), page.next_marker


def test_nothing_stored_is_all_missing() -> None:
    """Without pieces the gap is the window itself."""
    assert covered("c", 4) == Gap("c", 4, ())


def test_a_short_window_lies_in_a_long_span() -> None:
    """A page of two comes out of a span of ten, with the next marker of a page of two."""
    assert shown(covered(HEAD, 2, whole(MODEL.span(HEAD, 100)))) == (("a", "b"), "b")


def test_a_window_may_begin_inside_a_span() -> None:
    """The rest of a span after one of its images answers a window there."""
    assert shown(covered("c", 3, Piece(MODEL.span(HEAD, 100), 3))) == (("d", "e", "f"), "f")


def test_a_long_window_is_joined_from_spans_that_meet() -> None:
    """Three spans end to end are one page."""
    spans = [MODEL.span(HEAD, 3), MODEL.span("c", 3), MODEL.span("f", 100)]
    assert shown(covered(HEAD, 8, *map(whole, spans))) == (ROWS[:8], "h")
    assert shown(covered(HEAD, 20, *map(whole, spans))) == (ROWS, None)


def test_what_is_missing_begins_at_the_last_known_marker() -> None:
    """The gap behind two spans names the second's end and the rows still wanted."""
    pieces = (whole(MODEL.span(HEAD, 3)), whole(MODEL.span("c", 3)))
    assert covered(HEAD, 10, *pieces) == Gap("f", 4, pieces)


def test_orders_under_which_images_move_are_never_joined() -> None:
    """Where images move a page comes from one span, or is fetched whole."""
    pieces = (whole(MODEL.span(HEAD, 3)), whole(MODEL.span("c", 3)))
    assert covered(HEAD, 5, *pieces, joinable=False) == Gap(HEAD, 5, ())
    assert shown(covered(HEAD, 2, *pieces, joinable=False)) == (("a", "b"), "b")


@pytest.mark.parametrize(("limit", "marker"), [(9, "i"), (10, "j"), (11, None), (99, None)])
def test_a_full_page_has_a_next_and_a_short_one_has_none(limit: int, marker: str | None) -> None:
    """As in Glance a page that is full names a next one, even where nothing follows."""
    assert shown(covered(HEAD, limit, whole(MODEL.span(HEAD, 100)))) == (ROWS[:limit], marker)


def test_an_upstream_that_knows_its_end_is_believed() -> None:
    """A span that came full and yet without a link ends the listing."""
    knowing = replace(MODEL.span(HEAD, 10), end=None)
    assert shown(covered(HEAD, 10, whole(knowing))) == (ROWS, None)


def test_an_empty_listing_is_a_page() -> None:
    """No images and no next."""
    assert shown(covered(HEAD, 5, whole(Model(()).span(HEAD, 5)))) == ((), None)


def test_an_empty_last_page_is_a_page() -> None:
    """The page after a full last one is empty."""
    assert shown(covered("j", 5, whole(MODEL.span("j", 5)))) == ((), None)


def test_a_span_with_hidden_rows_is_given_whole_or_not_at_all() -> None:
    """Nobody knows where in it the hidden rows were, so it answers the page it was fetched as."""
    span = replace(Model(ROWS, frozenset("bd")).span(HEAD, 5))
    assert shown(covered(HEAD, 5, whole(span))) == (("a", "c", "e"), "e")
    assert covered(HEAD, 4, whole(span)) == Gap(HEAD, 4, ())
    assert covered("a", 2, Piece(span, 1)) == Gap("a", 2, ())


def test_hidden_rows_count_towards_the_page() -> None:
    """Behind five rows, two of them hidden, a page of eight lacks three."""
    span = Model(ROWS, frozenset("bd")).span(HEAD, 5)
    assert covered(HEAD, 8, whole(span)) == Gap("e", 3, (whole(span),))


def test_the_end_of_a_span_may_be_a_marker_that_was_not_shown() -> None:
    """Where the last row is hidden, next leads on after it all the same."""
    assert shown(covered(HEAD, 4, whole(Model(ROWS, frozenset("d")).span(HEAD, 4)))) == (("a", "b", "c"), "d")


def test_a_span_with_nulls_answers_only_the_page_that_it_was() -> None:
    """Where a sort key is null Glance's pages are no windows: neither cut nor joined, only repeated."""
    span = replace(MODEL.span(HEAD, 5), nulls=True)
    assert shown(covered(HEAD, 5, whole(span))) == (ROWS[:5], "e")
    assert covered(HEAD, 4, whole(span)) == Gap(HEAD, 4, ())
    assert covered(HEAD, 6, whole(span)) == Gap(HEAD, 6, ())
    assert covered("b", 3, Piece(span, 2)) == Gap("b", 3, ())


def test_spans_that_show_an_image_twice_are_not_joined() -> None:
    """An image that moved between two fetches makes the whole page be fetched anew."""
    moved = Model(tuple("xyzab"))
    assert covered(HEAD, 6, whole(MODEL.span(HEAD, 3)), whole(replace(moved.span("z", 2), after="c"))) == Gap(
        HEAD, 6, ()
    )


def test_a_short_list_without_links_is_a_complete_page() -> None:
    """Of `/v2/cloudimages` a span shorter than asked completes a page, and so does an empty one."""
    assert shown(covered(HEAD, 50, whole(UNLINKED.span(HEAD, 50))))[0] == ROWS
    assert shown(covered("j", 50, whole(UNLINKED.span("j", 50))))[0] == ()


def test_a_full_list_without_links_goes_on() -> None:
    """A full span without links may have more behind it."""
    piece = whole(UNLINKED.span(HEAD, 4))
    assert covered(HEAD, 6, piece) == Gap("d", 2, (piece,))


def test_a_chain_follows_end_markers() -> None:
    """Pieces are looked up one after the other until they hold enough images."""
    spans = {span.after: Piece(span, 0) for span in (MODEL.span(HEAD, 3), MODEL.span("c", 3), MODEL.span("f", 9))}
    assert [piece.span.after for piece in chain(HEAD, 5, spans.get)] == [HEAD, "c"]
    assert [piece.span.after for piece in chain(HEAD, 99, spans.get)] == [HEAD, "c", "f"]
    del spans["c"]
    assert [piece.span.after for piece in chain(HEAD, 99, spans.get)] == [HEAD]


def test_a_chain_of_spans_that_lead_in_a_circle_ends() -> None:
    """Empty spans whose markers name each other don't hold a request up."""
    empty = replace(Model(()).span(HEAD, 5))
    circle = {"a": Piece(replace(empty, after="a", end="b"), 0), "b": Piece(replace(empty, after="b", end="a"), 0)}
    assert len(chain("a", 5, circle.get)) < 5000
    itself = {"a": Piece(replace(empty, after="a", end="a"), 0)}
    assert chain("a", 5, itself.get) == []
