"""Who may come in and as whom the upstream is asked, put together from the settings of `identity`."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from pydantic import SecretStr
from yarl import URL

from proxy.config import IdentitySection, Settings
from proxy.core.callers import callers
from proxy.core.freshness import Verdicts
from proxy.core.identity import Partitioner
from proxy.core.signing import SigningKey
from proxy.core.tokens import password_order
from proxy.gateway.doors import Door, OwnDoor, ProjectDoor, Signatures, TokenDoor
from proxy.gateway.verifier import TokenVerifier
from proxy.upstream.base import Upstream
from proxy.upstream.iam import Iam
from proxy.upstream.own import Credential, KeyCredential, OwnUpstream, TokenCredential
from proxy.watched import Watched


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
        self._key = _signing_key(identity) if identity.mode == "gateway" and identity.access_key else None

    def heard(self, scopes: Iterable[str] | None) -> None:
        """See `TokenVerifier.heard`."""
        if self._verifier is not None:
            self._verifier.heard(scopes)

    async def drop(self, digest: str, surely: bool) -> None:
        """See `proxy.gateway.credentials.Drop`."""
        if self._verifier is not None:
            await self._verifier.drop(digest, surely=surely)

    def asked(self, upstream: Upstream) -> Upstream:
        """Return *upstream* as it is asked: with the proxy's own credentials, where it has them."""
        credential = self._credential()
        return OwnUpstream(upstream, credential) if credential else upstream

    def door(self, partitioner: Partitioner) -> Door:
        """Return where callers come in."""
        identity = self._identity
        if identity.mode == "gateway":
            known = Watched(identity.callers, callers) if identity.callers else None
            return OwnDoor(partitioner, own=self._own, callers=known, writes=identity.writes, clock=time.time)
        signatures = None
        if identity.keys:
            secrets = {access: Watched(path, str.strip) for access, path in identity.keys.items()}
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

    def _own(self) -> tuple[str, ...]:
        identity = self._identity
        who = (self._key().access,) if self._key else (identity.domain or "", identity.user or "")
        return (*who, identity.project_id or "", self._host)

    def _credential(self) -> Credential | None:
        identity = self._identity
        if self._key is not None:
            return KeyCredential(self._key, host=self._host, project_id=identity.project_id, clock=time.time)
        if identity.mode != "gateway" or self._iam is None or identity.password is None:
            return None
        order = password_order(
            user=identity.user or "",
            domain=identity.domain or "",
            password=identity.password.get_secret_value(),
            project_id=identity.project_id or "",
        )
        iam = self._iam
        return TokenCredential(lambda: iam.issued(order), clock=time.time)


def _signing_key(identity: IdentitySection) -> Callable[[], SigningKey]:
    """Return what gives the key to sign with, its parts read again where they come from files."""
    access = _part(identity.access_key, identity.access_key_file)
    secret = _part(identity.secret_key, identity.secret_key_file)
    token = _part(identity.security_token, identity.security_token_file)
    return lambda: SigningKey(access() or "", secret() or "", token())


def _part(value: str | SecretStr | None, file: Path | None) -> Callable[[], str | None]:
    if file is not None:
        return Watched(file, str.strip)
    plain = value.get_secret_value() if isinstance(value, SecretStr) else value
    return lambda: plain
