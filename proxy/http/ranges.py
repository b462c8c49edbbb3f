"""Parts of a stored answer (RFC 9110 §14): one range is cut out, several are answered whole, as they may be."""

from __future__ import annotations

import re
from typing import Final

from proxy.core.messages import Fields, Response
from proxy.http.dates import http_date

_RANGE: Final = re.compile(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*", re.ASCII | re.IGNORECASE)


def cut(request: Fields, whole: Response, *, now: float) -> Response:
    """Return the part of the 200 *whole* that *request* asks for, or *whole* where it asks for none that counts."""
    asked = _RANGE.fullmatch(", ".join(request.all("range")))
    if asked is None or (not asked[1] and not asked[2]) or not _if_range(request, whole.fields, now=now):
        return whole
    length = len(whole.body)
    begin, end = _bounds(asked[1], asked[2], length)
    if begin >= length or end < begin:
        if asked[2] and asked[1] and int(asked[2]) < int(asked[1]):
            return whole  # malformed, and so as if it were not there (RFC 9110 §14.1.1)
        return Response(416, Fields([("Content-Range", f"bytes */{length}")]))
    fields = whole.fields.without(["content-length", "content-range"])
    part = fields.plus(("Content-Range", f"bytes {begin}-{end}/{length}"))
    return Response(206, part, whole.body[begin : end + 1])


def _bounds(first: str, last: str, length: int) -> tuple[int, int]:
    """Return the first and last position; `-N` counts from the end."""
    if not first:
        return max(0, length - int(last)), length - 1 if int(last) else -1
    return int(first), min(length - 1, int(last)) if last else length - 1


def _if_range(request: Fields, fields: Fields, *, now: float) -> bool:
    """Whether the range counts: `If-Range` names this very representation, or is not there (RFC 9110 §13.1.5)."""
    condition = request.get("if-range")
    if condition is None:
        return True
    if condition.startswith('"'):
        return condition == fields.get("etag")
    changed = fields.get("last-modified")
    return changed is not None and http_date(condition, now=now) == http_date(changed, now=now) is not None
