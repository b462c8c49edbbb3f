"""Who the proxy is to the upstream, where it has credentials of its own: read once for a call, and held to its caller.

The files that say who it is may change at any moment, and a call may be sent long after it was asked for:

1. A request comes. Its partition is that of who the proxy is now, and goes with it as `Claimant.partition`.
2. It waits: for a claim, for another's fetch, in the background, for a login. The proxy's key is replaced.
3. It is to be sent. `OwnIdentity.of` reads who the proxy is now and finds another: nothing is sent, and the request is
   worked out anew. Where it is the same, what proves that comes out of the same reading.

So there is no credential without an `Identity`, none of those but for a request, and no request goes up as anybody else
than who its answer is for. What the answer is kept under, shared by and counted towards follows from one reading too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field

from proxy.core.identity import Partition, Partitioner
from proxy.core.messages import Request
from proxy.core.signing import SigningKey
from proxy.core.values import immutable
from proxy.errors import IdentityChangedError


@immutable
class Identity:
    """Who the proxy is at one moment: *names* tell it from others, the rest proves it.

    That is a *key*, or the *order* that IAM is sent for a token, secrets and all.
    """

    names: tuple[str, ...]
    key: SigningKey = field(repr=False)
    order: str = field(repr=False)


class OwnIdentity:
    """Who the proxy is, as *read* says it each time."""

    def __init__(self, read: Callable[[], Identity], partitioner: Partitioner) -> None:
        self._read = read
        self._partitioner = partitioner

    @property
    def partition(self) -> Partition:
        """Who may share what the upstream tells the proxy now."""
        return self._partition(self._read())

    def of(self, request: Request) -> Identity:
        """Return who asks the upstream for *request*.

        Raises `IdentityChangedError` where the answer would be somebody else's than whose *request* is for.
        """
        identity = self._read()
        if self._partition(identity).digest != request.claimant.partition:
            raise IdentityChangedError
        return identity

    def _partition(self, identity: Identity) -> Partition:
        return self._partitioner.own(*identity.names)
