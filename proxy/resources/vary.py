"""Which request a stored answer was selected for (RFC 9111 §4.1), in a spelling that does not tell alike ones apart."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from proxy.core.messages import Fields
from proxy.http.stored_response import Nominated, StoredAnswer

# Lists in which neither order nor case says anything; weights do, so members keep theirs.
_SETS: Final = frozenset({"accept", "accept-charset", "accept-encoding", "accept-language"})


def varies(fields: Fields) -> tuple[str, ...]:
    """Return the request fields that the response *fields* nominate, in lower case.

    A coded answer depends on what its caller can read, whether it says so or not.
    """
    names = {name.strip().lower() for value in fields.all("vary") for name in value.split(",") if name.strip()}
    if fields.get("content-encoding") is not None:
        names.add("accept-encoding")
    return tuple(sorted(names))


def nominated(request: Fields, names: Iterable[str]) -> Nominated:
    """Return what *request* has for *names*, None for a field that it does not have: that is not an empty one."""
    return tuple((name, _normalised(name, request.all(name)) if request.all(name) else None) for name in names)


def selected(request: Fields, answers: Iterable[StoredAnswer]) -> StoredAnswer | None:
    """Return the first of *answers* that *request* selects: one given to a request with the same nominated fields."""
    return next((each for each in answers if selects(request, each)), None)


def selects(request: Fields, answer: StoredAnswer) -> bool:
    """Whether *answer* was given to a request that had for the nominated fields what *request* has."""
    return nominated(request, (name for name, _ in answer.nominated)) == answer.nominated


def _normalised(name: str, values: list[str]) -> str:
    """Return the combined field value: one comma between members, no space around them (RFC 9110 §5.3).

    A value with a quoted string in it is left as it is: in there a comma separates nothing.
    """
    if any('"' in value for value in values):
        return ", ".join(values)
    members = [member.strip(" \t") for member in ",".join(values).split(",")]
    if name not in _SETS:
        return ",".join(members)
    return ",".join(sorted({"".join(member.lower().split()) for member in members if member}))
