"""A marker whose image was deleted since: where to go on instead.

Spans that are too old to answer from still show which images stood before the one that is gone. Any of those that still
exists is a marker from which the same place is reached, once the images before that place are left out: those that the
old span shows there, and those that have come since, by the order of the listing.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import orjson

from proxy.core.span import Piece, Span
from proxy.core.values import immutable

# How far back to look: the nearest first, then in bounds, for a script may have deleted the whole page.
_DISTANCES: Final = (1, 4, 16, 64)


@immutable
class Foothold:
    """A marker to go on from: *marker* stood *distance* images before the one that vanished."""

    marker: str
    distance: int


def footholds(holding: Piece) -> list[Foothold]:
    """Return where to go on from, nearest first, given the span that held the vanished image, from behind it on."""
    vanished = holding.start - 1
    inside = [Foothold(holding.span.ids[vanished - d], d) for d in _DISTANCES if d <= vanished]
    return [*inside, Foothold(holding.span.after, vanished + 1)]


def continued(span: Span, holding: Piece, *, after: str, order: Sequence[tuple[str, bool]] = ()) -> Span | None:
    """Return *span*, fetched from a foothold, as the span that follows the vanished marker *after*.

    *order* are the sort keys, each with whether it descends. None where it does not reach beyond what stands before
    that marker.
    """
    before = set(holding.span.ids[: holding.start])
    vanished = _image(holding.span, holding.start - 1)
    known = [position for position, image_id in enumerate(span.ids, 1) if image_id in before]
    cut = known[-1] if known else 0
    while cut < len(span.ids) and _precedes(_image(span, cut), vanished, order):
        cut += 1
    if cut and cut == len(span.ids) and span.end is not None:
        return None
    first = span.starts[cut] if cut < len(span.ids) else len(span.body)
    return replace(
        span,
        after=after,
        ids=span.ids[cut:],
        body=span.body[first:],
        starts=array("I", (start - first for start in span.starts[cut:])),
        ends=array("I", (end - first for end in span.ends[cut:])),
        asked=max(span.asked - cut, 0),
    )


def _image(span: Span, at: int) -> dict[str, Any]:
    try:
        image: dict[str, Any] = orjson.loads(span.body[span.starts[at] : span.ends[at]])
    except orjson.JSONDecodeError:  # a number that is too large for it, or more levels than it goes down
        return {}
    return image


def _precedes(image: dict[str, Any], other: dict[str, Any], order: Sequence[tuple[str, bool]]) -> bool:
    for key, descending in order:
        one, two = image.get(key), other.get(key)
        if not (isinstance(one, str) and isinstance(two, str)):
            return False
        if one != two:
            return (one > two) is descending
    return False
