"""Whose a request is, in each mode: by its token, by what IAM says of the token, or by a key of the proxy's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Final, Protocol

from proxy.auth.api_keys import CLAIMS, OVERRIDES, Caller, recognised
from proxy.auth.signed_requests import Signatures
from proxy.auth.token_verifier import TokenVerifier
from proxy.core.cache_key import EVERYTHING, project_scope
from proxy.core.call_context import Claimant
from proxy.core.messages import Request
from proxy.core.partition import UNPLACED, Partition, Partitioner, Unshared, Who, spelt
from proxy.core.purge import Purge
from proxy.core.write_effect import SAFE
from proxy.errors import ForbiddenError, IdentityChangedError, ProxyError, UnauthorizedError

_BELIEVED_S: Final = 1.0


class Door(Protocol):
    """Where callers come in."""

    def admit(self, request: Request) -> None:
        """Return if *request* may be carried on; raises `ProxyError` where it may not."""
        ...

    async def onward(self, request: Request) -> Request:
        """Return *request* as it goes on where it is passed through."""
        ...

    async def who(self, request: Request) -> Who | Unshared:
        """Return whose the list *request* is, or why its answer is shared with nobody."""
        ...

    def holder(self, partition: Partition) -> Who:
        """Return who has the token with the partition *partition*, before anything else is known of it."""
        ...

    def dropped(self, who: Who) -> str | None:
        """Return why *who* is believed no longer, though it was when it came, None where it is."""
        ...

    def still(self, request: Request, claimant: Claimant) -> None:
        """Return if what was fetched for *claimant* may be given to who sent *request*, which may have waited for it.

        Raises `ProxyError` where that one may not come in any more, `IdentityChangedError` where the proxy itself is
        another by now.
        """
        ...

    def seen_by(self, project: str) -> Purge:
        """Return which listings to drop for all that *project* sees to be gone."""
        ...


class TokenDoor:
    """An answer is shared among requests with the same token, or signed by the same key."""

    def __init__(self, partitioner: Partitioner, signatures: Signatures | None = None) -> None:
        self._partitioner = partitioner
        self._signatures = signatures

    def admit(self, request: Request) -> None:
        """See `Door.admit`: whether it may is for the upstream to say."""

    async def onward(self, request: Request) -> Request:
        """See `Door.onward`."""
        return await self._signatures.onward(request) if self._signatures else request

    async def who(self, request: Request) -> Who | Unshared:
        """See `Door.who`."""
        partition = self._partitioner.of(request.fields)
        if partition is Unshared.SIGNED and self._signatures:
            return self._signatures.who(request)
        return await self._token(request, partition) if isinstance(partition, Partition) else partition

    async def _token(self, request: Request, partition: Partition) -> Who | Unshared:  # noqa: ARG002 - see ProjectDoor
        return self.holder(partition)

    def holder(self, partition: Partition) -> Who:
        """See `Door.holder`."""
        return Who(partition, partition)

    def dropped(self, who: Who) -> str | None:
        """See `Door.dropped`: who has a token waited for a fetch by the same, which the upstream took."""
        if who.signing is None or self._signatures is None or self._signatures.holds(who.signing):
            return None
        return "key-replaced"

    def still(self, request: Request, claimant: Claimant) -> None:
        """See `Door.still`: it came in as who it is to the upstream, see `dropped`."""

    def seen_by(self, project: str) -> Purge:
        """See `Door.seen_by`: tokens tell no projects."""
        return Purge((EVERYTHING,), f"tokens don't tell which of them see project {project}, so all went")


class ProjectDoor(TokenDoor):
    """An answer is shared among tokens that IAM says to be of the same scope and roles."""

    def __init__(
        self, partitioner: Partitioner, signatures: Signatures | None = None, *, verifier: TokenVerifier
    ) -> None:
        super().__init__(partitioner, signatures)
        self._verifier = verifier

    async def _token(self, request: Request, partition: Partition) -> Who | Unshared:
        token = spelt(request.fields.get("x-auth-token") or "").decode("utf-8", "surrogateescape")
        if not token.isascii() or not token.isprintable():
            return Unshared.REFUSED  # undone, the percent-encoding may hide what must not stand in a field
        try:
            known = await self._verifier.known(token, partition.digest)
        except ProxyError:
            return Unshared.UNVERIFIED
        if known is None:
            return Unshared.REFUSED
        scope = known.verdict.scope
        return Who(
            self._partitioner.scoped(scope, user=False),
            self._partitioner.scoped(scope, user=True),
            verified=True,
            public=scope.placed,
            token=partition.digest,
            expires_at=known.verdict.expires_at,
            believed_until=known.until,
        )

    def holder(self, partition: Partition) -> Who:
        """See `Door.holder`."""
        return Who(partition, partition, verified=True, token=partition.digest)

    def dropped(self, who: Who) -> str | None:
        """See `Door.dropped`."""
        if who.token is not None and self._verifier.dropped(who.token):
            return "token-dropped"
        return super().dropped(who)

    def seen_by(self, project: str) -> Purge:
        """See `Door.seen_by`: those of the project, and of who may see it though it is not theirs alone."""
        return Purge((project_scope(self._partitioner.project(project)), project_scope(UNPLACED)))


class OwnDoor:
    """Callers need no cloud credentials: every answer is what the proxy's own identity sees.

    *own* is the partition of that identity, now. *callers* are those who may come in, None where whoever reaches the
    proxy may; then *writes* says whether they may write.
    """

    def __init__(
        self,
        *,
        own: Callable[[], Partition],
        callers: Callable[[], Iterable[Caller]] | None,
        writes: bool,
        clock: Callable[[], float],
    ) -> None:
        self._own = own
        self._callers = callers
        self._writes = writes
        self._clock = clock

    def admit(self, request: Request) -> None:
        """See `Door.admit`."""
        writes = self._writes
        if self._callers is not None:
            caller = recognised(request.fields, self._callers())
            if caller is None:
                raise UnauthorizedError("caller: no valid key in Authorization: Bearer or X-Api-Key")
            writes = caller.writes
        if request.method not in SAFE and not writes:
            raise ForbiddenError(f"caller: may not write, and {request.method} does")

    async def onward(self, request: Request) -> Request:
        """See `Door.onward`: callers' credentials end here, and what would make a read a write.

        It may wait for its turn upstream: who may not come in any more by then is refused, and nothing is sent.
        """
        still = partial(self.admit, request) if self._callers is not None else None
        return replace(request, fields=request.fields.without((*CLAIMS, *OVERRIDES)), still=still)

    async def who(self, request: Request) -> Who | Unshared:  # noqa: ARG002 - they are all the proxy
        """See `Door.who`."""
        partition = self._own()
        # A key that is taken back counts no more within a second, and so does an identity that was changed.
        until = self._clock() + _BELIEVED_S
        return Who(partition, partition, verified=True, public=True, believed_until=until, credentials=())

    def holder(self, partition: Partition) -> Who:
        """See `Door.holder`: no token of a caller counts here."""
        return Who(partition, partition, verified=True)

    def dropped(self, who: Who) -> str | None:  # noqa: ARG002 - they are all the proxy
        """See `Door.dropped`: never, see `still`."""
        return None

    def still(self, request: Request, claimant: Claimant) -> None:
        """See `Door.still`: by its key, as when it came, and as who the proxy was then."""
        self.admit(request)
        if self._own().digest != claimant.partition:
            raise IdentityChangedError

    def seen_by(self, project: str) -> Purge:
        """See `Door.seen_by`: there is one identity, and all is stored for it."""
        return Purge((EVERYTHING,), f"all is seen by the proxy's own identity, which may see project {project}")
