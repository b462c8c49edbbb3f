"""Who the proxy is to the upstream, where it has credentials of its own.

The files that say so may change at any moment, and a request may be sent long after it came:

1. A request comes. The partition of who the proxy is then decides under what its answer is stored, with whom it is
   shared and whose budget it counts towards, and goes with the request as `Claimant.partition`.
2. The request waits: for a claim, for another's fetch, in the background, for a login. The proxy's key is replaced.
3. The request is to be sent. `OwnIdentity.of` reads who the proxy is now. If that is another partition, nothing is sent
   and the request is worked out anew. If it is the same, the credential is made from this very reading.

A credential is made from an `Identity` only, and those that make credentials get one from `OwnIdentity.of` only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field

from proxy.core.messages import Request
from proxy.core.partition import Partition, Partitioner
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
        """Return who the proxy is, to make the credential of *request* from.

        Raises `IdentityChangedError` if that is not whom the answer to *request* is for.
        """
        identity = self._read()
        if self._partition(identity).digest != request.claimant.partition:
            raise IdentityChangedError
        return identity

    def _partition(self, identity: Identity) -> Partition:
        return self._partitioner.own(*identity.names)
