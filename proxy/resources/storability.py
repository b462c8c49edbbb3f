"""Whether an answer may be stored (RFC 9111 §3) and, if not, why.

A stored answer is selected by the fields that `Vary` names (§4.1), compared in a spelling that makes equal ones equal.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import orjson

from proxy.core.messages import Fields
from proxy.http.cache_control import ResponseDirectives
from proxy.http.stored_response import HEURISTIC_STATUSES, NominatedFields, StoredResponse

# Request fields that say who asks. None is compared, so none is kept.
CREDENTIAL_FIELDS: Final = (
    *("authorization", "cookie", "proxy-authorization", "x-api-key", "x-auth-token"),
    *("x-security-token", "x-subject-token"),
)
# What is about who asks, or how often, and what is no whole answer: never stored, whatever the answer says.
_NEVER_STORED: Final = frozenset({206, 304, 401, 403, 407, 429})
# Statuses whose meaning for a cache is known here (RFC 9111 §5.2.2.3).
_UNDERSTOOD_STATUSES: Final = frozenset({200, 203, 204, 300, 301, 302, 303, 307, 308, 404, 405, 410, 414, 501})
# What is kept for callers with credentials: an error of the upstream's must not outlive it.
_STORED_FOR_CALLERS: Final = frozenset({200, 203, 300, 301, 308})


def unstorable_reason(
    stored: StoredResponse, *, stated: bool, authorized: bool, public: bool = False, by_rfc: bool = False
) -> str | None:
    """Return why *stored* must not be stored, in a word for `Cache-Status`, None where it may.

    *stated* says that something gave it a lifetime, *authorized* that the request had `Authorization` (RFC 9111 §3.5).
    What is *public* is everyone's, so it must not be said to depend on a credential, nor hold one. Unless the standard
    alone decides, *by_rfc*, fewer statuses count, and no answer that sets a cookie.
    """
    fields = stored.fields
    if stored.status < 200 or stored.status in _NEVER_STORED:
        return "status"
    if not by_rfc and (reason := _unsuitable_reason(stored.status, fields)):
        return reason
    if reason := _forbidden_reason(stored.status, stored.directives, authorized=authorized):
        return reason
    varies = {name.strip().lower() for value in fields.get_all("vary") for name in value.split(",")}
    if "*" in varies or (public and not varies.isdisjoint(CREDENTIAL_FIELDS)):
        return "vary"
    if fields.get("x-subject-token") is not None:
        return "token"
    useless = stored.lifetime_s <= 0 and not any(stored.validators)
    by_default = stored.status in HEURISTIC_STATUSES or stored.directives.public
    return "no-lifetime" if useless or not (stated or by_default) else None


def _unsuitable_reason(status: int, fields: Fields) -> str | None:
    if status not in _STORED_FOR_CALLERS:
        return "status"
    if fields.get("set-cookie") is not None:
        return "cookie"
    return "coding" if fields.get("content-encoding") is not None else None


def _forbidden_reason(status: int, said: ResponseDirectives, *, authorized: bool) -> str | None:
    if said.must_understand and status not in _UNDERSTOOD_STATUSES:
        return "must-understand"
    if said.no_store and not said.must_understand:
        return "no-store"
    if said.private:
        return "private"
    if authorized and not (said.public or said.must_revalidate or said.has_s_maxage):
        return "authorization"
    return None


def is_json(body: bytes) -> bool:
    """Whether *body* is JSON, whole and well-formed."""
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return True


# Lists in which neither order nor case says anything; weights do, so members keep theirs.
_UNORDERED_FIELDS: Final = frozenset({"accept", "accept-charset", "accept-encoding", "accept-language"})


def vary_names(fields: Fields) -> tuple[str, ...]:
    """Return the request fields that the response *fields* nominate, in lower case.

    A coded answer depends on what its caller can read, whether it says so or not.
    """
    names = {name.strip().lower() for value in fields.get_all("vary") for name in value.split(",") if name.strip()}
    if fields.get("content-encoding") is not None:
        names.add("accept-encoding")
    return tuple(sorted(names))


def nominate_fields(request: Fields, names: Iterable[str]) -> NominatedFields:
    """Return what *request* has for *names*, None for a field that it does not have: that is not an empty one."""
    return tuple((name, _normalise(name, request.get_all(name)) if request.get_all(name) else None) for name in names)


def select(request: Fields, answers: Iterable[StoredResponse]) -> StoredResponse | None:
    """Return the first of *answers* that *request* selects: one given to a request with the same nominated fields."""
    return next((each for each in answers if is_selected_by(request, each)), None)


def is_selected_by(request: Fields, stored: StoredResponse) -> bool:
    """Whether *stored* was given to a request that had for the nominated fields what *request* has."""
    return nominate_fields(request, (name for name, _ in stored.nominated)) == stored.nominated


def _normalise(name: str, values: list[str]) -> str:
    """Return the combined field value: one comma between members, no space around them (RFC 9110 §5.3).

    A value with a quoted string in it is left as it is: in there a comma separates nothing.
    """
    if any('"' in value for value in values):
        return ", ".join(values)
    members = [member.strip(" \t") for member in ",".join(values).split(",")]
    if name not in _UNORDERED_FIELDS:
        return ",".join(members)
    return ",".join(sorted({"".join(member.lower().split()) for member in members if member}))
