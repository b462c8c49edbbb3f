"""A marker whose image was deleted goes on where it stood."""

from hypothesis import assume, given
from hypothesis import strategies as st

from proxy.core.span import LIST_START, SpanSlice
from proxy.listing.marker_recovery import recovery_points, span_behind_marker
from tests.support.model import Model


def test_footholds_are_what_stood_before_the_nearest_first() -> None:
    """The image before the vanished one comes first, and the marker of the whole span last."""
    span = Model(tuple("abcdefghij")).span("a", 50)
    holds = recovery_points(SpanSlice(span, span.ids.index("h") + 1))
    assert [hold.marker for hold in holds] == ["g", "d", "a"]
    assert [hold.distance for hold in holds] == [1, 4, 7]


def test_the_first_image_of_a_listing_has_only_the_head_before_it() -> None:
    """Where nothing stood before, the listing's head is where to go on from."""
    span = Model(tuple("abc")).span(LIST_START, 50)
    assert [(hold.marker, hold.distance) for hold in recovery_points(SpanSlice(span, 1))] == [(LIST_START, 1)]


@given(st.integers(1, 20), st.data())
def test_a_crawl_goes_on_without_loss_or_repetition(count: int, data: st.DataObject) -> None:
    """From whichever foothold still exists, what follows is what still stands behind the vanished image."""
    rows = tuple(f"i{number:02}" for number in range(count))
    old = Model(rows).span(LIST_START, data.draw(st.integers(1, 30)))
    vanished = data.draw(st.sampled_from(old.ids))
    at = old.ids.index(vanished)
    gone = data.draw(st.sets(st.sampled_from(rows))) | {vanished}
    now = Model(tuple(row for row in rows if row not in gone))
    alive = [hold for hold in recovery_points(SpanSlice(old, at + 1)) if hold.marker not in gone]
    assume(alive)
    hold = data.draw(st.sampled_from(alive))
    limit = data.draw(st.integers(1, 30))
    span = span_behind_marker(now.span(hold.marker, limit + hold.distance), SpanSlice(old, at + 1), marker=vanished)
    behind = tuple(row for row in rows[at + 1 :] if row not in gone)
    if span is None:
        assert behind[:limit] == ()
        return
    assert span.marker == vanished
    assert span.ids[:limit] == behind[: min(limit, len(span.ids))]
    assert len(span.ids) >= min(limit, len(behind)) or span.next_marker is None
    assert [span.body[start:end] for start, end in zip(span.starts, span.ends, strict=True)] == [
        b'{"id": "%b"}' % image_id.encode() for image_id in span.ids
    ]
