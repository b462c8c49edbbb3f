"""The proxy's own identity in `gateway` mode, put together from the settings of `identity`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import field, replace
from importlib.util import find_spec

from pydantic import SecretStr

from proxy.config import IdentitySection, StoreSection
from proxy.core.identity import Partitioner
from proxy.core.signing import SigningKey
from proxy.core.tokens import key_order, password_order
from proxy.core.values import immutable
from proxy.files import text
from proxy.stores.base import SpanStore
from proxy.telemetry import Telemetry
from proxy.upstream.iam import Iam, Issued
from proxy.upstream.login import SharedLogin, Vault
from proxy.upstream.own import Credential, KeyCredential, TokenCredential
from proxy.watched import Renewed, line

# Makes a vault for what the order for a token, which is given anew each time, decides.
MakeVault = Callable[[Callable[[], str]], Vault]


@immutable
class _Parts:
    """What tells the proxy's identity and proves it, `""` where it has no such part."""

    access: str
    secret: str = field(repr=False)
    security_token: str | None = field(repr=False)
    password: str = field(repr=False)


class OwnIdentity:
    """Who the proxy is to the upstream *host*: an access key, or a user or key that *iam* gives a token."""

    def __init__(self, identity: IdentitySection, *, host: str, iam: Iam | None) -> None:
        self._identity = identity
        self._host = host
        self._iam = iam
        self._parts = _parts(identity)

    @property
    def names(self) -> tuple[str, ...]:
        """What tells this identity from others; a key that is replaced makes another."""
        identity = self._identity
        access = self._parts().access
        who = (access,) if access else (identity.domain or "", identity.user or "")
        return (*who, identity.project_id or "", self._host)

    def credential(self, vault: MakeVault | None) -> Credential:
        """Return what goes upstream with each request."""
        identity = self._identity
        if identity.access_key is not None and identity.key_use == "sign":
            return KeyCredential(self._key, host=self._host, project_id=identity.project_id, clock=time.time)
        iam = self._iam
        assert iam is not None

        async def alone() -> Issued:
            return await iam.issued(self._order().encode())

        async def each_its_own(_: str | None) -> Issued:
            return await alone()

        shared = SharedLogin(alone, vault(self._order), whose=self._order, clock=time.time).issued if vault else None
        return TokenCredential(shared or each_its_own, whose=self._order, clock=time.time)

    def _key(self) -> SigningKey:
        parts = self._parts()
        return SigningKey(parts.access, parts.secret, parts.security_token)

    def _order(self) -> str:
        """Return what IAM is sent for a token: secrets and all."""
        identity = self._identity
        project_id = identity.project_id or ""
        parts = self._parts()
        if parts.access:
            return key_order(access=parts.access, secret=parts.secret, project_id=project_id).decode()
        user, domain = identity.user or "", identity.domain or ""
        return password_order(user=user, domain=domain, password=parts.password, project_id=project_id).decode()


def vaults(
    settings: StoreSection, store: SpanStore, partitioner: Partitioner, telemetry: Telemetry
) -> MakeVault | None:
    """Return what keeps the token of the proxy's own for all replicas, None where each has to log in for itself.

    That takes a Redis, `store.key` and the package `cryptography`: a token is kept encrypted or not at all.
    """
    if settings.url.startswith("memory:") or not settings.keys or find_spec("cryptography") is None:
        return None
    from proxy.stores.tiered import TieredStore
    from proxy.stores.vault import RedisVault

    assert isinstance(store, TieredStore)
    return lambda order: RedisVault(
        store.far,
        lambda: partitioner.own(order()).digest,
        [key.encode() for key in settings.keys],
        timeout_s=settings.timeout_ms / 1000,
        failed=telemetry.store_failed,
    )


def _parts(identity: IdentitySection) -> Callable[[], _Parts]:
    """Return what gives the parts of *identity*; those that come from files are read again, all of them together."""
    files = {
        "access": identity.access_key_file,
        "secret": identity.secret_key_file,
        "security_token": identity.security_token_file,
        "password": identity.password_file,
    }
    watched = {name: file for name, file in files.items() if file is not None}
    fixed = _Parts(
        access=identity.access_key or "",
        secret=_shown(identity.secret_key) or "",
        security_token=_shown(identity.security_token),
        password=_shown(identity.password) or "",
    )
    if not watched:
        return lambda: fixed

    def made() -> _Parts:
        return replace(fixed, **{name: line(text(file)) for name, file in watched.items()})

    return Renewed(watched.values(), made, together=len(watched) > 1)


def _shown(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None
