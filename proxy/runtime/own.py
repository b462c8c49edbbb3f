"""The proxy's own identity in `gateway` mode, put together from the settings of `identity`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import field, replace
from importlib.util import find_spec

from pydantic import SecretStr

from proxy.config.files import text
from proxy.config.model import IdentitySection, StoreSection
from proxy.config.reload import Renewed, line
from proxy.core.messages import Request
from proxy.core.partition import Partitioner
from proxy.core.signing import SigningKey
from proxy.core.values import immutable
from proxy.storage.base import SpanStore
from proxy.upstream.auth import Credential, KeyCredential, TokenCredential
from proxy.upstream.identity import Identity
from proxy.upstream.keystone import Iam, Issued
from proxy.upstream.login import SharedLogin, Vault
from proxy.upstream.tokens import key_order, password_order


@immutable
class _Parts:
    """What tells the proxy's identity and proves it, `""` where it has no such part."""

    access: str
    secret: str = field(repr=False)
    security_token: str | None = field(repr=False)
    password: str = field(repr=False)


def own_identity(identity: IdentitySection, *, host: str) -> Callable[[], Identity]:
    """Return what reads who the proxy is to the upstream *host*.

    That is an access key or a user, whose parts may come from files: those are read again, all of them together.
    """
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
        always = _identity(identity, fixed, host)
        return lambda: always

    def made() -> Identity:
        parts = replace(fixed, **{name: line(text(file)) for name, file in watched.items()})
        return _identity(identity, parts, host)

    return Renewed(watched.values(), made, together=len(watched) > 1)


def _identity(identity: IdentitySection, parts: _Parts, host: str) -> Identity:
    """Return who *parts* make the proxy to *host*; a key that is replaced makes it another."""
    user, domain, project_id = identity.user or "", identity.domain or "", identity.project_id or ""
    if parts.access:
        who: tuple[str, ...] = (parts.access,)
        order = key_order(access=parts.access, secret=parts.secret, project_id=project_id)
    else:
        who = (domain, user)
        order = password_order(user=user, domain=domain, password=parts.password, project_id=project_id)
    key = SigningKey(parts.access, parts.secret, parts.security_token)
    return Identity((*who, project_id, host), key, order.decode())


def credential(
    identity: IdentitySection, of: Callable[[Request], Identity], *, host: str, iam: Iam | None, vault: Vault | None
) -> Credential:
    """Return what goes upstream with each request, as *of* says for whom: a signature, or a token that *iam* gives.

    Replicas share a token by *vault*.
    """
    if identity.access_key is not None and identity.key_use == "sign":
        return KeyCredential(of, host=host, project_id=identity.project_id, clock=time.time)
    assert iam is not None

    async def ordered(order: str) -> Issued:
        return await iam.issued(order.encode())

    shared = SharedLogin(ordered, vault, clock=time.time) if vault else None

    async def issued(whose: Identity, refused: str | None) -> Issued:
        return await (shared.issued(whose.order, refused) if shared else ordered(whose.order))

    return TokenCredential(issued, of=of, clock=time.time)


def shared_vault(settings: StoreSection, store: SpanStore, partitioner: Partitioner) -> Vault | None:
    """Return what keeps the token of the proxy's own for all replicas, None where each has to log in for itself.

    That takes a Redis, `store.key` and the package `cryptography`: a token is kept encrypted or not at all.
    """
    if settings.url.startswith("memory:") or not settings.keys or find_spec("cryptography") is None:
        return None
    from proxy.storage.tiered import TieredStore
    from proxy.upstream.vault import RedisVault

    assert isinstance(store, TieredStore)
    return RedisVault(
        store.far,
        lambda order: partitioner.own(order).digest,
        [key.encode() for key in settings.keys],
        breaker=store.breaker,
        timeout_s=settings.timeout_ms / 1000,
    )


def _shown(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None
