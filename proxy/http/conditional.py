"""Entity tags, conditional requests and ranges (RFC 9110 §8.8.3, §13, §14).

Clients' conditions are evaluated against a stored answer; the proxy's own revalidate it (RFC 9111 §4.3). One range is
cut out; several are answered with the whole, as RFC 9110 allows.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from proxy.core.messages import Fields, Response
from proxy.http.dates import parse_http_date
from proxy.http.stored_response import StoredResponse

_ENTITY_TAG: Final = re.compile(r'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')


def compute_entity_tag(body: bytes) -> str:
    """Return the strong entity tag of the representation *body*, without quotes."""
    return hashlib.sha256(body).hexdigest()[:24]  # processors have instructions for it: half the time of BLAKE2b


def is_entity_tag(text: str | None) -> bool:
    """Whether *text* is one entity tag, weak or strong."""
    return text is not None and _ENTITY_TAG.fullmatch(text) is not None


def is_matched_by(values: list[str], tag: str) -> bool:
    """Whether `If-None-Match` names the quoted *tag* or anything, compared weakly; then the answer is 304."""
    joined = ", ".join(values).strip()
    return joined == "*" or tag in _ENTITY_TAG.findall(joined)


# What a request may be made conditional or partial by; the cache asks for whole answers, on conditions of its own.
CONDITION_FIELDS: Final = ("if-none-match", "if-modified-since", "if-match", "if-unmodified-since", "if-range", "range")
# What says how the body that was stored has to be read, which no newer value can change (RFC 9111 §3.2).
_BODY_FIELDS: Final = frozenset({"content-length", "content-encoding", "content-range"})
# What a 304 carries (RFC 9110 §15.4.5), besides what no cache would know to leave out.
_NOT_IN_304: Final = ("content-length", "content-encoding", "content-range", "content-type")


def is_not_modified(request: Fields, fields: Fields, *, now: float) -> bool:
    """Whether the conditions in *request* say that the caller has the answer with *fields* already: then it gets a 304.

    `If-None-Match` takes the place of `If-Modified-Since` (RFC 9110 §13.2.2). Where the answer has no date of last
    change, the one it was made on stands in (RFC 9111 §4.3.2).
    """
    if named := request.get_all("if-none-match"):
        tag = fields.get("etag")
        return tag is not None and is_matched_by(named, tag.removeprefix("W/"))
    since = _parse_date(request.get("if-modified-since"), now)
    changed = _parse_date(fields.get("last-modified") or fields.get("date"), now)
    return since is not None and changed is not None and changed <= since


def to_not_modified(whole: Response) -> Response:
    """Return the 304 in the place of *whole*."""
    return Response(304, whole.fields.without(_NOT_IN_304))


def validation_conditions(stored: StoredResponse) -> tuple[tuple[str, str], ...]:
    """Return the fields that ask the upstream whether *stored* still holds; none where it has no validator."""
    tag, changed = stored.validators
    asked = []
    if tag is not None:
        asked.append(("If-None-Match", tag))
    if changed is not None:
        asked.append(("If-Modified-Since", changed))
    return tuple(asked)


def freshen_fields(stored: Fields, newer: Fields) -> Fields:
    """Return the *stored* fields of an answer after a 304 with *newer* ones has confirmed it (RFC 9111 §3.2, §4.3.4).

    Each field of the 304 replaces every line of that name; what describes the body stays, as the body does.
    """
    newer = newer.without(_BODY_FIELDS)
    return stored.without([*{name.lower() for name, _ in newer}, "age"]).plus(*newer)


def is_validated_by(stored: StoredResponse, fields: Fields) -> bool:
    """Whether a 304 with *fields* speaks of *stored*: it names no other strong entity tag (RFC 9111 §4.3.4)."""
    said, (tag, _) = fields.get("etag"), stored.validators
    return said is None or tag is None or said.startswith("W/") or said == tag


def _parse_date(text: str | None, now: float) -> float | None:
    return parse_http_date(text, now=now) if text else None


_RANGE: Final = re.compile(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*", re.ASCII | re.IGNORECASE)


def apply_range(request: Fields, whole: Response, *, now: float) -> Response:
    """Return the part of the 200 *whole* that *request* asks for, or *whole* where it asks for none that counts."""
    asked = _RANGE.fullmatch(", ".join(request.get_all("range")))
    if asked is None or (not asked[1] and not asked[2]) or not _matches_if_range(request, whole.fields, now=now):
        return whole
    length = len(whole.body)
    begin, end = _resolve_range(asked[1], asked[2], length)
    if begin >= length or end < begin:
        if asked[2] and asked[1] and int(asked[2]) < int(asked[1]):
            return whole  # malformed, and so as if it were not there (RFC 9110 §14.1.1)
        return Response(416, Fields([("Content-Range", f"bytes */{length}")]))
    fields = whole.fields.without(["content-length", "content-range"])
    part = fields.plus(("Content-Range", f"bytes {begin}-{end}/{length}"))
    return Response(206, part, whole.body[begin : end + 1])


def _resolve_range(first: str, last: str, length: int) -> tuple[int, int]:
    """Return the first and last position; `-N` counts from the end."""
    if not first:
        return max(0, length - int(last)), length - 1 if int(last) else -1
    return int(first), min(length - 1, int(last)) if last else length - 1


def _matches_if_range(request: Fields, fields: Fields, *, now: float) -> bool:
    """Whether the range counts: `If-Range` names this very representation, or is not there (RFC 9110 §13.1.5)."""
    condition = request.get("if-range")
    if condition is None:
        return True
    if condition.startswith('"'):
        return condition == fields.get("etag")
    changed = fields.get("last-modified")
    return changed is not None and parse_http_date(condition, now=now) == parse_http_date(changed, now=now) is not None
