"""What may have changed while a request waited: for a claim, another's fetch, a turn before the upstream.

Whose it is was decided when it came. That its answer is still for that one is decided here, once more, when the answer
is there, whether from the store, from a fetch of its own or of another's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from proxy.core.identity import Unshared, Who
from proxy.core.messages import Request, Response
from proxy.errors import IdentityChangedError
from proxy.gateway.asked import ListAsk
from proxy.gateway.doors import Door
from proxy.gateway.resource_asking import ResourceAsk

# How long ago a verdict has to have ended for its token to be asked about again, seconds: where each is believed for no
# time at all, the one that let a request in is to do for an answer that comes at once.
_ENDED_S: Final = 1.0

Result = TypeVar("Result")


async def believed_no_longer(
    door: Door, request: Request, ask: ListAsk | ResourceAsk, answer: Response | None, *, now: float
) -> str | None:
    """Return why whose *ask* it is, believed when its *request* came, gets nothing; None where it still is believed.

    Nor where the *answer* is that it is refused: nobody's but its own, and by that it was dropped. Raises what
    `Door.still` does.
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
    """Return why *request* is no longer of whom it was *before*, by what is said of its token now."""
    who = await door.who(request)
    if isinstance(who, Unshared):
        return who.value
    return None if (who.partition, who.member) == (before.partition, before.member) else "token-changed"


async def as_one(work: Callable[[], Awaitable[Result]]) -> Result:
    """Return what *work* gives. It is done anew, once, where the proxy itself was replaced by another on the way.

    By then nothing was sent under the other's name, and nothing is given of what was sent under its own.
    """
    try:
        return await work()
    except IdentityChangedError:
        return await work()
