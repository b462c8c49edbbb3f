"""Who may come in and as whom the upstream is asked, put together from the settings of `identity`."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable

from yarl import URL

from proxy.auth.api_keys import callers
from proxy.auth.authenticators import Door, OwnDoor, ProjectDoor, TokenDoor
from proxy.auth.signed_requests import Signatures
from proxy.auth.token_verifier import TokenVerifier
from proxy.config.model import Settings
from proxy.config.reload import Watched, line
from proxy.core.base import Upstream
from proxy.core.freshness import Verdicts
from proxy.core.partition import Partitioner
from proxy.runtime.own import credential, own_identity
from proxy.upstream.auth import OwnUpstream
from proxy.upstream.identity import OwnIdentity
from proxy.upstream.keystone import Iam
from proxy.upstream.login import Vault


class Entrance:
    """The door for callers and the credentials that go upstream.

    *iam* is asked about tokens; *tell* is given the scopes that every replica has to hear of.
    """

    def __init__(self, settings: Settings, *, iam: Iam | None, tell: Callable[[list[str]], Awaitable[None]]) -> None:
        self._identity = identity = settings.identity
        self._host = URL(settings.upstream.url).host_port_subcomponent or ""
        self._iam = iam
        self._verifier = None
        if identity.mode == "project" and iam is not None:
            verdicts = Verdicts(identity.verdict_ttl_s, identity.verdict_grace_s)
            self._verifier = TokenVerifier(iam, verdicts=verdicts, tell=tell, clock=time.time)
        self._own = own_identity(identity, host=self._host)

    def heard(self, scopes: Iterable[str] | None) -> None:
        """See `TokenVerifier.heard`."""
        if self._verifier is not None:
            self._verifier.heard(scopes)

    async def drop(self, digest: str, surely: bool) -> None:
        """See `proxy.auth.token_acceptance.Drop`."""
        if self._verifier is not None:
            await self._verifier.drop(digest, surely=surely)

    def asked(self, upstream: Upstream, partitioner: Partitioner, vault: Vault | None) -> Upstream:
        """Return *upstream* as it is asked: with the proxy's own credentials, where it has them.

        Replicas share a token of its own by *vault*.
        """
        if self._identity.mode != "gateway":
            return upstream
        of = OwnIdentity(self._own, partitioner).of
        return OwnUpstream(upstream, credential(self._identity, of, host=self._host, iam=self._iam, vault=vault))

    def door(self, partitioner: Partitioner) -> Door:
        """Return where callers come in."""
        identity = self._identity
        if identity.mode == "gateway":
            known = Watched(identity.callers, callers) if identity.callers else None
            own = OwnIdentity(self._own, partitioner)
            return OwnDoor(own=lambda: own.partition, callers=known, writes=identity.writes, clock=time.time)
        signatures = None
        if identity.keys:
            secrets = {access: Watched(path, line) for access, path in identity.keys.items()}
            signatures = Signatures(
                partitioner,
                secret=lambda access: secrets[access]() if access in secrets else None,
                host=self._host,
                clock=time.time,
            )
        if self._verifier is not None:
            return ProjectDoor(partitioner, signatures, verifier=self._verifier)
        return TokenDoor(partitioner, signatures)

    async def close(self) -> None:
        """End what is under way."""
        if self._verifier is not None:
            await self._verifier.close()
