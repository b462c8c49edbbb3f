"""A stored answer as one caller gets it: its age, whole or a part of it, or that the caller has it already."""

from __future__ import annotations

from math import floor
from typing import Final

from proxy.core.messages import Fields, Request, Response
from proxy.http.cache_control import parse_response_directives
from proxy.http.conditional import apply_range, compute_entity_tag, is_entity_tag, is_not_modified, to_not_modified
from proxy.http.negotiation import MIN_CODED_BYTES, choose_coding
from proxy.http.stored_response import StoredResponse
from proxy.resources.routes import ResourceRoute

_VARY: Final = "X-Api-Version, Accept, Accept-Language, Accept-Encoding"
_BODY_FIELDS: Final = ("etag", "content-md5", "digest", "content-digest", "repr-digest")
# What the upstream says of being cached is said to us; what callers may do follows from whom an answer belongs to.
_CACHING_FIELDS: Final = ("cache-control", "cdn-cache-control", "expires", "pragma", "vary")


def choose_coding_for(stored: StoredResponse, request: Request, route: ResourceRoute) -> str | None:
    """Return the content coding in which *stored* goes to the caller of *request*, None for as it is.

    Not coded are answers on a route with `vary`, which go out as they came, short ones, those that are coded already,
    and any to a request for a range, which is one of the uncoded answer.
    """
    as_it_is = route.by_vary or stored.status != 200 or len(stored.body) < MIN_CODED_BYTES
    if as_it_is or request.fields.get("range") is not None or stored.fields.get("content-encoding") is not None:
        return None
    return choose_coding(request.fields.get("accept-encoding"))


def present(
    stored: StoredResponse, request: Request, route: ResourceRoute, *, hit: bool, now: float, coding: str | None = None
) -> Response:
    """Return *stored* as the caller of *request* gets it; it is a *hit* if the upstream was not asked for it.

    Its fields are those of the answer in *coding*, but the body is still as stored: coding it takes a thread.
    """
    fields = stored.fields.without(["age", "content-length"])
    if not route.by_vary:
        fields = _client_fields(stored, fields, route, now=now)
    if coding is not None:
        fields = _with_coding(fields, coding)
    age_s = stored.current_age_s(now=now)
    if hit or age_s >= 1.0:
        fields = fields.plus(("Age", str(floor(age_s))))
    # What a caller may do counts from now where we say it, so there the answer is dated when it is given.
    given = fields if route.by_vary else fields.without(["date"])
    whole = Response(stored.status, given, stored.body, stored.reason)
    if stored.status != 200:
        return whole
    if is_not_modified(request.fields, fields, now=now):
        return to_not_modified(whole)
    return apply_range(request.fields, whole, now=now) if request.method == "GET" else whole


def _client_fields(stored: StoredResponse, fields: Fields, route: ResourceRoute, *, now: float) -> Fields:
    """Return *fields* for a caller with credentials, or of a public route that is the same for all who ask alike."""
    said = [] if route.is_public else ["private"]
    said.append(_cache_control(stored, now=now))
    lines = [("Cache-Control", ", ".join(said)), ("Vary", _VARY if route.is_public else f"X-Auth-Token, {_VARY}")]
    if stored.status == 200 and not is_entity_tag(fields.get("etag")):
        fields = fields.without(["etag"])
        lines.append(("ETag", f'"{compute_entity_tag(stored.body)}"'))
    return fields.without(_CACHING_FIELDS).plus(*lines)


def _with_coding(fields: Fields, coding: str) -> Fields:
    """Return *fields* as those of another representation: in *coding*, with its own tag (RFC 9110 §8.8.3.3)."""
    tag = fields.get("etag") or '""'
    return fields.without(_BODY_FIELDS).plus(("ETag", f'{tag[:-1]}-{coding}"'), ("Content-Encoding", coding))


def _cache_control(stored: StoredResponse, *, now: float) -> str:
    """Return what a caller may do: as much as is left to us, and no more than all caches are told (RFC 9213 §2.2)."""
    to_us, to_all = stored.directives, parse_response_directives(stored.fields, targets=())
    if to_all.no_store and not to_all.must_understand:
        return "no-store"
    left_s = stored.fresh_until - now
    if to_us.is_targeted and to_all.max_age_s is not None:
        left_s = min(left_s, to_all.max_age_s - stored.current_age_s(now=now))
    use = "no-cache" if to_us.no_cache or to_all.no_cache else f"max-age={max(0, floor(left_s))}"
    return f"{use}, must-revalidate" if to_us.must_revalidate or to_all.must_revalidate else use
