"""Conditional requests: a caller's, answered from a stored answer, and our own (RFC 9110 §13, RFC 9111 §4.3)."""

from __future__ import annotations

from typing import Final

from proxy.core.messages import Fields, Response
from proxy.http.dates import http_date
from proxy.http.stored_response import StoredAnswer
from proxy.http.validators import none_match

# What a request may be made conditional or partial by; the cache asks for whole answers, on conditions of its own.
CONDITIONS: Final = ("if-none-match", "if-modified-since", "if-match", "if-unmodified-since", "if-range", "range")
# What says how the body that was stored has to be read, which no newer value can change (RFC 9111 §3.2).
_OF_THE_BODY: Final = frozenset({"content-length", "content-encoding", "content-range"})
# What a 304 carries (RFC 9110 §15.4.5), besides what no cache would know to leave out.
_NOT_IN_304: Final = ("content-length", "content-encoding", "content-range", "content-type")


def unmodified(request: Fields, fields: Fields, *, now: float) -> bool:
    """Whether the conditions in *request* say that the caller has the answer with *fields* already: then it gets a 304.

    `If-None-Match` takes the place of `If-Modified-Since` (RFC 9110 §13.2.2). Where the answer has no date of last
    change, the one it was made on stands in (RFC 9111 §4.3.2).
    """
    if named := request.all("if-none-match"):
        tag = fields.get("etag")
        return tag is not None and none_match(named, tag.removeprefix("W/"))
    since = _date(request.get("if-modified-since"), now)
    changed = _date(fields.get("last-modified") or fields.get("date"), now)
    return since is not None and changed is not None and changed <= since


def not_modified(whole: Response) -> Response:
    """Return the 304 in the place of *whole*."""
    return Response(304, whole.fields.without(_NOT_IN_304))


def conditions(stored: StoredAnswer) -> tuple[tuple[str, str], ...]:
    """Return the fields that ask the upstream whether *stored* still holds; none where it has no validator."""
    tag, changed = stored.validators
    asked = []
    if tag is not None:
        asked.append(("If-None-Match", tag))
    if changed is not None:
        asked.append(("If-Modified-Since", changed))
    return tuple(asked)


def updated(stored: Fields, newer: Fields) -> Fields:
    """Return the *stored* fields of an answer after a 304 with *newer* ones has confirmed it (RFC 9111 §3.2, §4.3.4).

    Each field of the 304 replaces every line of that name; what describes the body stays, as the body does.
    """
    newer = newer.without(_OF_THE_BODY)
    return stored.without([*{name.lower() for name, _ in newer}, "age"]).plus(*newer)


def validated(stored: StoredAnswer, fields: Fields) -> bool:
    """Whether a 304 with *fields* speaks of *stored*: it names no other strong entity tag (RFC 9111 §4.3.4)."""
    said, (tag, _) = fields.get("etag"), stored.validators
    return said is None or tag is None or said.startswith("W/") or said == tag


def _date(text: str | None, now: float) -> float | None:
    return http_date(text, now=now) if text else None
