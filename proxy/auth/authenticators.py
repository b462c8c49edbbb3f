"""Whose a request is, in each mode: by its token, by what IAM says of the token, or by a key of the proxy's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Final, Protocol

from proxy.auth.api_keys import IDENTITY_FIELDS, METHOD_OVERRIDE_FIELDS, ApiKey, find_api_key
from proxy.auth.signed_requests import SignatureVerifier
from proxy.auth.token_verifier import TokenVerifier
from proxy.core.cache_key import ALL_TAG, project_tag
from proxy.core.call_context import CallContext
from proxy.core.messages import Request
from proxy.core.partition import ANY_PROJECT, NotShareable, Partition, Partitioner, Principal, decode_token
from proxy.core.purge import PurgeOrder
from proxy.core.write_effect import SAFE_METHODS
from proxy.errors import ForbiddenError, IdentityChangedError, ProxyError, UnauthorizedError

_OWN_IDENTITY_TRUST_S: Final = 1.0


class Authenticator(Protocol):
    """Where callers come in."""

    def authorize(self, request: Request) -> None:
        """Return if *request* may be carried on; raises `ProxyError` where it may not."""
        ...

    async def prepare_forward(self, request: Request) -> Request:
        """Return *request* as it goes on where it is passed through."""
        ...

    async def authenticate(self, request: Request) -> Principal | NotShareable:
        """Return whose the list *request* is, or why its answer is shared with nobody."""
        ...

    def principal_for_partition(self, partition: Partition) -> Principal:
        """Return who has the token with the partition *partition*, before anything else is known of it."""
        ...

    def revocation_reason(self, principal: Principal) -> str | None:
        """Return why *principal* is believed no longer, though it was when it came, None where it is."""
        ...

    def reauthorize(self, request: Request, context: CallContext) -> None:
        """Return if what was fetched for *context* may be given to who sent *request*, which may have waited for it.

        Raises `ProxyError` where that one may not come in any more, `IdentityChangedError` where the proxy itself is
        another by now.
        """
        ...

    def project_purge_order(self, project_id: str) -> PurgeOrder:
        """Return which listings to drop for all that *project_id* sees to be gone."""
        ...


class TokenAuthenticator:
    """An answer is shared among requests with the same token, or signed by the same key."""

    def __init__(self, partitioner: Partitioner, signature_verifier: SignatureVerifier | None = None) -> None:
        self._partitioner = partitioner
        self._signature_verifier = signature_verifier

    def authorize(self, request: Request) -> None:
        """See `Authenticator.authorize`: whether it may is for the upstream to say."""

    async def prepare_forward(self, request: Request) -> Request:
        """See `Authenticator.prepare_forward`."""
        return await self._signature_verifier.prepare_forward(request) if self._signature_verifier else request

    async def authenticate(self, request: Request) -> Principal | NotShareable:
        """See `Authenticator.authenticate`."""
        partition = self._partitioner.from_fields(request.fields)
        if partition is NotShareable.SIGNED and self._signature_verifier:
            return self._signature_verifier.authenticate(request)
        return await self._authenticate_token(request, partition) if isinstance(partition, Partition) else partition

    async def _authenticate_token(self, request: Request, partition: Partition) -> Principal | NotShareable:  # noqa: ARG002 - see ProjectDoor
        return self.principal_for_partition(partition)

    def principal_for_partition(self, partition: Partition) -> Principal:
        """See `Authenticator.principal_for_partition`."""
        return Principal(partition, partition)

    def revocation_reason(self, principal: Principal) -> str | None:
        """See `Authenticator.revocation_reason`: who has a token waited for a fetch by the same, which the upstream
        took.
        """
        if (
            principal.signer is None
            or self._signature_verifier is None
            or self._signature_verifier.is_current(principal.signer)
        ):
            return None
        return "key-replaced"

    def reauthorize(self, request: Request, context: CallContext) -> None:
        """See `Authenticator.reauthorize`: it came in as who it is to the upstream, see `dropped`."""

    def project_purge_order(self, project_id: str) -> PurgeOrder:
        """See `Authenticator.project_purge_order`: tokens tell no projects."""
        return PurgeOrder((ALL_TAG,), f"tokens don't tell which of them see project {project_id}, so all went")


class ProjectAuthenticator(TokenAuthenticator):
    """An answer is shared among tokens that IAM says to be of the same scope and roles."""

    def __init__(
        self,
        partitioner: Partitioner,
        signature_verifier: SignatureVerifier | None = None,
        *,
        token_verifier: TokenVerifier,
    ) -> None:
        super().__init__(partitioner, signature_verifier)
        self._token_verifier = token_verifier

    async def _authenticate_token(self, request: Request, partition: Partition) -> Principal | NotShareable:
        token = decode_token(request.fields.get("x-auth-token") or "").decode("utf-8", "surrogateescape")
        if not token.isascii() or not token.isprintable():
            return NotShareable.REFUSED  # undone, the percent-encoding may hide what must not stand in a field
        try:
            known = await self._token_verifier.verify_token(token, partition.digest)
        except ProxyError:
            return NotShareable.UNVERIFIED
        if known is None:
            return NotShareable.REFUSED
        scope = known.token_info.scope
        return Principal(
            self._partitioner.for_scope(scope, per_user=False),
            self._partitioner.for_scope(scope, per_user=True),
            is_verified=True,
            may_share_public=scope.is_project_scoped,
            token_digest=partition.digest,
            expires_at=known.token_info.expires_at,
            trusted_until=known.trusted_until,
        )

    def principal_for_partition(self, partition: Partition) -> Principal:
        """See `Authenticator.principal_for_partition`."""
        return Principal(partition, partition, is_verified=True, token_digest=partition.digest)

    def revocation_reason(self, principal: Principal) -> str | None:
        """See `Authenticator.revocation_reason`."""
        if principal.token_digest is not None and self._token_verifier.is_revoked(principal.token_digest):
            return "token-revoked"
        return super().revocation_reason(principal)

    def project_purge_order(self, project_id: str) -> PurgeOrder:
        """See `Authenticator.project_purge_order`: those of the project, and of who may see it though it is not theirs
        alone.
        """
        return PurgeOrder((project_tag(self._partitioner.project_digest(project_id)), project_tag(ANY_PROJECT)))


class GatewayAuthenticator:
    """Callers need no cloud credentials: every answer is what the proxy's own identity sees.

    *own_partition* is the partition of that identity, now. *api_keys* are those who may come in, None where whoever
    reaches the proxy may; then *may_write* says whether they may write.
    """

    def __init__(
        self,
        *,
        own_partition: Callable[[], Partition],
        api_keys: Callable[[], Iterable[ApiKey]] | None,
        may_write: bool,
        clock: Callable[[], float],
    ) -> None:
        self._own_partition = own_partition
        self._api_keys = api_keys
        self._may_write = may_write
        self._clock = clock

    def authorize(self, request: Request) -> None:
        """See `Authenticator.authorize`."""
        writes = self._may_write
        if self._api_keys is not None:
            caller = find_api_key(request.fields, self._api_keys())
            if caller is None:
                raise UnauthorizedError("caller: no valid key in Authorization: Bearer or X-Api-Key")
            writes = caller.may_write
        if request.method not in SAFE_METHODS and not writes:
            raise ForbiddenError(f"caller: may not write, and {request.method} does")

    async def prepare_forward(self, request: Request) -> Request:
        """See `Authenticator.prepare_forward`: callers' credentials end here, and what would make a read a write.

        It may wait for its turn upstream: who may not come in any more by then is refused, and nothing is sent.
        """
        reauthorize_caller = partial(self.authorize, request) if self._api_keys is not None else None
        return replace(
            request,
            fields=request.fields.without((*IDENTITY_FIELDS, *METHOD_OVERRIDE_FIELDS)),
            before_send=reauthorize_caller,
        )

    async def authenticate(self, request: Request) -> Principal | NotShareable:  # noqa: ARG002 - they are all the proxy
        """See `Authenticator.authenticate`."""
        partition = self._own_partition()
        # A key that is taken back counts no more within a second, and so does an identity that was changed.
        until = self._clock() + _OWN_IDENTITY_TRUST_S
        return Principal(
            partition, partition, is_verified=True, may_share_public=True, trusted_until=until, credential_names=()
        )

    def principal_for_partition(self, partition: Partition) -> Principal:
        """See `Authenticator.principal_for_partition`: no token of a caller counts here."""
        return Principal(partition, partition, is_verified=True)

    def revocation_reason(self, principal: Principal) -> str | None:  # noqa: ARG002 - they are all the proxy
        """See `Authenticator.revocation_reason`: never, see `still`."""
        return None

    def reauthorize(self, request: Request, context: CallContext) -> None:
        """See `Authenticator.reauthorize`: by its key, as when it came, and as who the proxy was then."""
        self.authorize(request)
        if self._own_partition().digest != context.partition:
            raise IdentityChangedError

    def project_purge_order(self, project_id: str) -> PurgeOrder:
        """See `Authenticator.project_purge_order`: there is one identity, and all is stored for it."""
        return PurgeOrder((ALL_TAG,), f"all is seen by the proxy's own identity, which may see project {project_id}")
