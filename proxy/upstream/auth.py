"""Credentials of the proxy's own on everything that goes upstream: a signature, or a token that is renewed in time.

Who the proxy is to the upstream, where it has credentials of its own.

The files that say so may change at any moment, and a request may be sent long after it came:

1. A request comes. The partition of who the proxy is then decides under what its answer is stored, with whom it is
   shared and whose budget it counts towards, and goes with the request as `CallContext.partition`.
2. The request waits: for a lock, for another's fetch, in the background, for a login. The proxy's key is replaced.
3. The request is to be sent. `OwnIdentity.for_request` reads who the proxy is now. If that is another partition,
   nothing is sent
   and the request is worked out anew. If it is the same, the credential is made from this very reading.

A credential is made from an `IdentitySnapshot` only, and those that make credentials get one from
`OwnIdentity.for_request` only.

One login for all replicas: who has none takes the token that another fetched.

1. A has no token, or one that is about to end. Nothing newer is kept, so it locks the login, asks IAM, and keeps the
   token, sealed.
2. B comes meanwhile, finds no token and the lock taken, and looks again until A's token is there.
3. A dies on the way: its lock expires, and B logs in. Where the store is away every replica does.
4. The upstream refuses a token that was revoked: who is told so takes any other than that one.

A secret that replicas share, in Redis: encrypted whatever `store.seal` is, for it opens more than lists.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import field, replace
from typing import Final, Protocol

import orjson

from proxy.core.messages import Request, Response, StreamedResponse, Upstream
from proxy.core.partition import Partition, Partitioner
from proxy.core.signing import RequestSigner, SigningKey
from proxy.core.values import immutable
from proxy.errors import IdentityChangedError, ProxyError, StoreUnavailableError
from proxy.storage.circuit_breaker import CircuitBreaker
from proxy.storage.redis import RedisStore
from proxy.storage.sealing import Encryption
from proxy.upstream.keystone import IssuedToken


@immutable
class IdentitySnapshot:
    """Who the proxy is at one moment: *names* tell it from others, the rest proves it.

    That is a *key*, or the *order* that IAM is sent for a token, secrets and all.
    """

    names: tuple[str, ...]
    key: SigningKey = field(repr=False)
    order: str = field(repr=False)


class OwnIdentity:
    """Who the proxy is, as *read* says it each time."""

    def __init__(self, read: Callable[[], IdentitySnapshot], partitioner: Partitioner) -> None:
        self._read = read
        self._partitioner = partitioner

    @property
    def partition(self) -> Partition:
        """Who may share what the upstream tells the proxy now."""
        return self._partition_of(self._read())

    def for_request(self, request: Request) -> IdentitySnapshot:
        """Return who the proxy is, to make the credential of *request* from.

        Raises `IdentityChangedError` if that is not whom the answer to *request* is for.
        """
        identity = self._read()
        if self._partition_of(identity).digest != request.context.partition:
            raise IdentityChangedError
        return identity

    def _partition_of(self, identity: IdentitySnapshot) -> Partition:
        return self._partitioner.for_own_identity(*identity.names)


# After a login that failed none is tried for so long, then for twice as long, up to the longest: IAM locks a user who
# fails five times in a row.
_FIRST_PAUSE_S: Final = 1.0
_MAX_PAUSE_S: Final = 300.0
_REPLACED_S: Final = 60.0


class UpstreamAuth(Protocol):
    """Who the proxy is to the upstream."""

    async def apply(self, request: Request) -> Request:
        """Return *request* with the credential of whom it is for.

        Raises `IdentityChangedError` where the proxy is that one no more, `ProxyError` where there is none to be had.
        """
        ...

    def on_unauthorized(self, request: Request) -> bool:
        """The upstream answered 401 to *request*; return whether another credential may fare better."""
        ...


class AccessKeyAuth:
    """Signs with the key of who asks, by *identity_for* (see `OwnIdentity.for_request`), and speaks for the project
    *project_id*.

    *clock* gives epoch seconds.
    """

    def __init__(
        self,
        identity_for: Callable[[Request], IdentitySnapshot],
        *,
        host: str,
        project_id: str | None,
        clock: Callable[[], float],
    ) -> None:
        self._identity_for = identity_for
        self._host = host
        self._project = (("X-Project-Id", project_id),) if project_id else ()
        self._clock = clock

    async def apply(self, request: Request) -> Request:
        """See `UpstreamAuth.apply`."""
        spoken = replace(request, fields=request.fields.plus(*self._project))
        return RequestSigner(self._identity_for(request).key, self._host).sign(spoken, now=self._clock())

    def on_unauthorized(self, request: Request) -> bool:  # noqa: ARG002 - whatever it was
        """See `UpstreamAuth.on_unauthorized`: never, for five refused signatures lock a key."""
        return False


class TokenAuth:
    """A token that *issue* gives, renewed before it ends by one caller while the others wait.

    *identity_for* says who asks (see `OwnIdentity.for_request`), *issue* is told whose token it is to be and which one
    the upstream refused, if that is why. When a key is replaced, the token of before counts no more.
    """

    def __init__(
        self,
        issue: Callable[[IdentitySnapshot, str | None], Awaitable[IssuedToken]],
        *,
        identity_for: Callable[[Request], IdentitySnapshot],
        clock: Callable[[], float],
    ) -> None:
        self._issue = issue
        self._identity_for = identity_for
        self._clock = clock
        self._login_lock = asyncio.Lock()
        self._issued: IssuedToken | None = None
        self._identity: IdentitySnapshot | None = None
        self._refused: str | None = None
        self._pause_s = _FIRST_PAUSE_S
        self._failed: tuple[float, ProxyError] | None = None  # until when not to try again, and why

    async def apply(self, request: Request) -> Request:
        """See `UpstreamAuth.apply`."""
        return replace(request, fields=request.fields.plus(("X-Auth-Token", await self._get_token(request))))

    def on_unauthorized(self, request: Request) -> bool:
        """See `UpstreamAuth.on_unauthorized`: the token may have been revoked; another that was fetched meanwhile
        stays.

        One that was fetched in the place of a refused one a moment ago is not given up: a third would fare no better.
        """
        sent, issued = request.fields.get("x-auth-token"), self._issued
        if issued is not None and sent == issued.token:
            if self._refused is not None and self._clock() < issued.issued_at + _REPLACED_S:
                return False
            self._refused, self._issued = sent, None
        return True

    async def _get_token(self, request: Request) -> str:
        held = self._valid_token(self._identity_for(request))
        # Who comes while the next one is fetched goes on with the one that still holds.
        if held is None or (self._clock() >= held.renew_at and not self._login_lock.locked()):
            async with self._login_lock:
                identity = self._identity_for(
                    request
                )  # again: nobody logs in any more as who the proxy was before it waited
                held = self._valid_token(identity)
                if held is None or self._clock() >= held.renew_at:
                    held = await self._renew(identity, held)
        return held.token

    def _valid_token(self, identity: IdentitySnapshot) -> IssuedToken | None:
        """Return the token of *identity* that there is, if it still holds."""
        issued = self._issued if self._identity == identity else None
        return issued if issued is not None and self._clock() < issued.expires_at else None

    async def _renew(self, identity: IdentitySnapshot, held: IssuedToken | None) -> IssuedToken:
        """Return a new token of *identity*, or *held* where there is none to be had."""
        now = self._clock()
        if self._failed is not None and self._identity == identity and 0 < self._failed[0] - now <= _MAX_PAUSE_S:
            if held is not None:
                return held
            raise self._failed[1]
        if self._identity != identity:
            # Before anything is awaited: who comes meanwhile would take it for the token of who the proxy is now.
            self._issued = self._refused = None
        self._identity = identity
        try:
            self._issued = await self._issue(identity, self._refused)
        except ProxyError as error:
            self._failed = (self._clock() + self._pause_s, error)
            self._pause_s = min(2 * self._pause_s, _MAX_PAUSE_S)
            if held is not None:
                return held  # it still holds; a later request tries again
            raise
        self._failed, self._pause_s = None, _FIRST_PAUSE_S
        return self._issued


class AuthenticatedUpstream:
    """An `Upstream` that is asked with *auth*; what is fetched is asked for once more where that may help."""

    def __init__(self, upstream: Upstream, auth: UpstreamAuth) -> None:
        self._upstream = upstream
        self._auth = auth

    async def fetch(self, request: Request) -> Response:
        """See `Upstream.fetch`."""
        sent = await self._auth.apply(request)
        answer = await self._upstream.fetch(sent)
        if answer.status == 401 and self._auth.on_unauthorized(sent) and request.body is None:
            answer = await self._upstream.fetch(await self._auth.apply(request))
        return answer

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[StreamedResponse]:
        """See `Upstream.stream`; a body can't be sent twice, so nothing is repeated."""
        sent = await self._auth.apply(request)
        async with self._upstream.stream(sent) as streamed:
            if streamed.status == 401:
                self._auth.on_unauthorized(sent)
            yield streamed


_MAX_LOOKS: Final = 50
_LOOK_INTERVAL_S: Final = 0.1


class SecretStore(Protocol):
    """Keeps a secret for all replicas, encrypted: one for each order for a login.

    Every method may raise `StoreUnavailableError`.
    """

    async def load(self, order: str) -> bytes | None:
        """Return what is kept."""
        ...

    async def save(self, order: str, value: bytes, *, for_s: float) -> None:
        """Keep *value* in the place of what was, for so long."""
        ...

    async def acquire_lock(self, order: str) -> bool:
        """Whether it is for who asks to replace what is kept: nobody else is told so for a while."""
        ...

    async def release_lock(self, order: str) -> None:
        """Release the lock."""
        ...


class SharedLogin:
    """Gives tokens that *issue* fetches for an order, once for all who share *secrets*; *clock* gives epoch seconds."""

    def __init__(
        self, issue: Callable[[str], Awaitable[IssuedToken]], secrets: SecretStore, *, clock: Callable[[], float]
    ) -> None:
        self._issue = issue
        self._secrets = secrets
        self._clock = clock

    async def get_token(self, order: str, refused: str | None) -> IssuedToken:
        """Return a token for *order* other than the *refused* one."""
        with suppress(StoreUnavailableError):
            for _ in range(_MAX_LOOKS):
                if (kept := await self._load(order, refused)) is not None:
                    return kept
                if await self._secrets.acquire_lock(order):
                    # 1. A holds the lock; B looks and finds no token. 2. A keeps its token and releases the lock.
                    # 3. B takes the lock, and would log in although there is a token now.
                    if (kept := await self._load(order, refused)) is not None:
                        await self._secrets.release_lock(order)
                        return kept
                    break
                await asyncio.sleep(_LOOK_INTERVAL_S)
        issued = await self._issue(order)
        with suppress(StoreUnavailableError):
            await self._secrets.save(order, _serialize_token(issued), for_s=issued.expires_at - self._clock())
        return issued

    async def _load(self, order: str, refused: str | None) -> IssuedToken | None:
        """Return the token that is kept for *order*, unless it was *refused* or is about to end."""
        kept = _deserialize_token(await self._secrets.load(order))
        return kept if kept is not None and kept.token != refused and self._clock() < kept.renew_at else None


def _serialize_token(issued: IssuedToken) -> bytes:
    return orjson.dumps([issued.token, issued.issued_at, issued.expires_at])


def _deserialize_token(value: bytes | None) -> IssuedToken | None:
    """Return the token in *value*, which is our own writing: nobody else can seal one."""
    return IssuedToken(*orjson.loads(value)) if value is not None else None


# Longer than IAM takes to answer; a replica that died while it asked holds the others up for no longer.
_LOCK_MS: Final = 5_000


class RedisSecretStore:
    """A `proxy.upstream.auth.SecretStore` in the Redis of *store*, under the first of *keys*.

    *name_for* gives what the secret for an order is kept under. Raises `ImportError` without `cryptography`.
    """

    def __init__(
        self,
        store: RedisStore,
        name_for: Callable[[str], str],
        keys: Sequence[bytes],
        *,
        breaker: CircuitBreaker,
        timeout_s: float,
    ) -> None:
        self._store = store
        self._name_for = name_for
        self._seal = Encryption(keys)
        self._breaker = breaker
        self._timeout_s = timeout_s

    async def load(self, order: str) -> bytes | None:
        """See `SecretStore.load`; what was altered, or sealed by another key, is nothing."""
        name = self._store.names.own_token(self._name_for(order))
        value = await self._breaker.call("vault", lambda: self._store.get(name), timeout_s=self._timeout_s)
        return None if value is None else self._seal.unseal(value, name=name.encode(), bound=b"")

    async def save(self, order: str, value: bytes, *, for_s: float) -> None:
        """See `SecretStore.save`; it releases the lock. If no token was obtained, the lock has to expire."""
        name, for_ms = self._store.names.own_token(self._name_for(order)), int(for_s * 1000)
        if for_ms > 0:
            sealed = self._seal.seal(value, name=name.encode(), bound=b"")
            await self._breaker.call(
                "vault", lambda: self._store.set(name, sealed, for_ms=for_ms), timeout_s=self._timeout_s
            )
            await self.release_lock(order)

    async def acquire_lock(self, order: str) -> bool:
        """See `SecretStore.acquire_lock`."""
        name = _lock_name(self._store.names.own_token(self._name_for(order)))
        return await self._breaker.call(
            "vault", lambda: self._store.set(name, b"", for_ms=_LOCK_MS, new=True), timeout_s=self._timeout_s
        )

    async def release_lock(self, order: str) -> None:
        """See `SecretStore.release_lock`."""
        name = _lock_name(self._store.names.own_token(self._name_for(order)))
        await self._breaker.call("vault", lambda: self._store.delete(name), timeout_s=self._timeout_s)


def _lock_name(name: str) -> str:
    return f"{name}:c"
