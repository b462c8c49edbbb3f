"""What may have changed while a request waited: for a claim, another's fetch, a turn before the upstream.

Who may have the answer was decided when the request came. It is decided once more here, when the answer is there,
whether it came from the store, from a fetch of the request's own or from another's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from proxy.auth.authenticators import Door
from proxy.core.messages import Request, Response
from proxy.core.partition import Unshared, Who
from proxy.errors import IdentityChangedError
from proxy.listing.request import ListAsk
from proxy.resources.request import ResourceAsk

# How long ago a verdict must have ended for its token to be asked about again, seconds. Even if verdicts are believed
# for no time at all, the one that let a request in is enough for an answer that comes at once.
_ENDED_S: Final = 1.0

Result = TypeVar("Result")


async def believed_no_longer(
    door: Door, request: Request, ask: ListAsk | ResourceAsk, answer: Response | None, *, now: float
) -> str | None:
    """Return why who sent *request* may no longer have the answer to *ask*, None if it may.

    It may always have an *answer* that refuses it: a 401 is given to nobody else, and is why its token was dropped.
    Raises what `Door.still` raises.
    """
    door.still(request, ask.claimant)
    if answer is not None and answer.status == 401:
        return None
    if ask.who.expires_at <= now:
        return "token-expired"
    if ask.who.token is not None and ask.who.believed_until + _ENDED_S < now:
        return await _asked_again(door, request, ask.who)
    return door.dropped(ask.who)


async def _asked_again(door: Door, request: Request, before: Who) -> str | None:
    """Return why *request* no longer counts as that of *before*, now that its token is asked about again."""
    who = await door.who(request)
    if isinstance(who, Unshared):
        return who.value
    return None if (who.partition, who.member) == (before.partition, before.member) else "token-changed"


async def as_one(work: Callable[[], Awaitable[Result]]) -> Result:
    """Return what *work* gives; it is done once more if the proxy's own identity was replaced meanwhile.

    What the first time sent, if anything, went up as the old identity; its answer is stored for that one and not given.
    """
    try:
        return await work()
    except IdentityChangedError:
        return await work()
