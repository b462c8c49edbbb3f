"""What may have changed while a request waited: for a lock, another's fetch, a slot.

Who may have the answer was decided when the request came. It is decided once more here, when the answer is there,
whether it came from the store, from a fetch of the request's own or from another's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from proxy.auth.authenticators import Authenticator
from proxy.core.messages import Request, Response
from proxy.core.partition import NotShareable, Principal
from proxy.errors import IdentityChangedError
from proxy.listing.request import ListRequest
from proxy.resources.request import ResourceRequest

# How long ago a verdict must have ended for its token to be asked about again, seconds. Even if verdicts are believed
# for no time at all, the one that let a request in is enough for an answer that comes at once.
_REVERIFY_AFTER_S: Final = 1.0

Result = TypeVar("Result")


async def find_revocation_reason(
    authenticator: Authenticator,
    request: Request,
    parsed_request: ListRequest | ResourceRequest,
    response: Response | None,
    *,
    now: float,
) -> str | None:
    """Return why who sent *request* may no longer have the answer to *parsed_request*, None if it may.

    It may always have an *response* that refuses it: a 401 is given to nobody else, and is why its token was dropped.
    Raises what `Authenticator.reauthorize` raises.
    """
    authenticator.reauthorize(request, parsed_request.context)
    if response is not None and response.status == 401:
        return None
    if parsed_request.principal.expires_at <= now:
        return "token-expired"
    if (
        parsed_request.principal.token_digest is not None
        and parsed_request.principal.trusted_until + _REVERIFY_AFTER_S < now
    ):
        return await _reverify(authenticator, request, parsed_request.principal)
    return authenticator.revocation_reason(parsed_request.principal)


async def _reverify(authenticator: Authenticator, request: Request, original: Principal) -> str | None:
    """Return why *request* no longer counts as that of *original*, now that its token is asked about again."""
    principal = await authenticator.authenticate(request)
    if isinstance(principal, NotShareable):
        return principal.value
    return (
        None
        if (principal.partition, principal.user_partition) == (original.partition, original.user_partition)
        else "token-changed"
    )


async def retry_on_identity_change(work: Callable[[], Awaitable[Result]]) -> Result:
    """Return what *work* gives; it is done once more if the proxy's own identity was replaced meanwhile.

    What the first time sent, if anything, went up as the old identity; its answer is stored for that one and not given.
    """
    try:
        return await work()
    except IdentityChangedError:
        return await work()
