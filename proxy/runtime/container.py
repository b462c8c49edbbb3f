"""The composition root: settings in, the parts of a proxy out, put together but not yet listening.

What answers requests, put together from the settings: the same before a real upstream and before a recorded one.

The proxy's own identity in `gateway` mode, put together from the settings of `identity`.

Who may come in and as whom the upstream is asked, put together from the settings of `identity`.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import field, replace
from importlib.util import find_spec
from random import random
from typing import Final

from pydantic import SecretStr
from yarl import URL

from proxy.auth.api_keys import callers
from proxy.auth.authenticators import Door, OwnDoor, ProjectDoor, TokenDoor
from proxy.auth.signed_requests import Signatures
from proxy.auth.token_acceptance import Credentials, Drop
from proxy.auth.token_verifier import TokenVerifier
from proxy.config import tls
from proxy.config.model import IdentitySection, ServerSection, Settings, StoreSection, UpstreamSection
from proxy.config.policies import asking, resource_routes, rules
from proxy.config.reload import Renewed, Watched, line, text
from proxy.core.freshness import Verdicts
from proxy.core.messages import Request, Upstream
from proxy.core.partition import Partitioner
from proxy.core.signing import SigningKey
from proxy.core.values import immutable
from proxy.errors import StoreUnavailableError
from proxy.gateway.admission import Admission
from proxy.gateway.gateway import Gateway
from proxy.listing.fetcher import Fetcher
from proxy.listing.page_cache import PageRenderer
from proxy.listing.prefetch import Readahead, Thrift
from proxy.listing.rendering import LinkStyle
from proxy.listing.request import Asking
from proxy.listing.service import ListingGateway
from proxy.observability.event_loop import LoopClock
from proxy.observability.logging import Telemetry, event
from proxy.ratelimit.priority import Claimants
from proxy.resources.fetcher import ResourceFetcher
from proxy.resources.service import ListItems, ResourceGateway
from proxy.runtime.shield import Shield
from proxy.storage.base import SpanStore
from proxy.storage.memory import MemoryStore
from proxy.storage.sealing import derived, sealing
from proxy.upstream.auth import (
    Credential,
    Identity,
    KeyCredential,
    OwnIdentity,
    OwnUpstream,
    SharedLogin,
    TokenCredential,
    Vault,
)
from proxy.upstream.client import UpstreamClient
from proxy.upstream.forward import Forwarder
from proxy.upstream.keystone import Iam, Issued, key_order, password_order

_CODED_SHARE: Final = 1 / 64  # of `store.max_bytes`: resources in a content coding
_RENDERED_SHARE: Final = 0.25  # of `store.max_bytes`: rendered pages beside the spans they come from


@immutable
class Answering:
    """The *gateway*, and the parts of it that have work of their own under way."""

    gateway: Gateway
    listings: ListingGateway
    resources: ResourceGateway

    @property
    def busy(self) -> bool:
        """Whether something is being fetched that no caller waits for."""
        return len(self.listings.background) + len(self.resources.background) > 0

    async def close(self) -> None:
        """End what is under way, or wait for it where it has a time limit of its own."""
        await self.gateway.close()
        await self.resources.close()
        await self.listings.close()


def answering(
    settings: Settings,
    upstream: Upstream,
    store: SpanStore,
    asks: Asking,
    *,
    telemetry: Telemetry,
    clock: Callable[[], float],
    dice: Callable[[], float],
    door: Door,
    claimants: Claimants | None = None,
    admission: Admission | None = None,
    drop: Drop | None = None,
    thrift: Thrift | None = None,
) -> Answering:
    """Return what answers requests from *store* and *upstream*; see the parts for what each argument is."""
    fetcher = Fetcher(upstream, store, telemetry=telemetry, clock=clock, dice=dice)
    listings = _listings(settings, fetcher, store, clock, drop, thrift)
    forwarder = Forwarder(upstream, telemetry=telemetry, clock=clock)
    resource_fetcher = _resource_fetcher(settings, forwarder, store, telemetry, clock)
    resources = _resources(settings, resource_fetcher, store, listings.credentials, clock, thrift)
    renderer = PageRenderer(int(settings.store.max_bytes * _RENDERED_SHARE))
    gateway = Gateway(
        listings,
        forwarder,
        renderer,
        asking=asks,
        links=_links(settings.server),
        store=store,
        clock=clock,
        door=door,
        claimants=claimants,
        admission=admission,
        resources=resources,
        routes=resource_routes(settings.cache),
    )
    return Answering(gateway, listings, resources)


def _listings(
    settings: Settings,
    fetcher: Fetcher,
    store: SpanStore,
    clock: Callable[[], float],
    drop: Drop | None,
    thrift: Thrift | None,
) -> ListingGateway:
    return ListingGateway(
        fetcher,
        store,
        readahead=Readahead(settings.upstream.max_page, settings.cache.readahead),
        verdicts=Verdicts(settings.identity.verdict_ttl_s, settings.identity.verdict_grace_s),
        negative_s=settings.cache.negative_ttl_s,
        clock=clock,
        drop=drop,
        thrift=thrift,
    )


def _resources(
    settings: Settings,
    fetcher: ResourceFetcher,
    store: SpanStore,
    credentials: Credentials,
    clock: Callable[[], float],
    thrift: Thrift | None,
) -> ResourceGateway:
    return ResourceGateway(
        fetcher,
        credentials,
        negative_s=settings.cache.negative_ttl_s,
        coded_bytes=int(settings.store.max_bytes * _CODED_SHARE),
        clock=clock,
        thrift=thrift,
        items=ListItems(store, clock=clock) if settings.cache.item_from_list else None,
    )


def _resource_fetcher(
    settings: Settings, forwarder: Forwarder, store: SpanStore, telemetry: Telemetry, clock: Callable[[], float]
) -> ResourceFetcher:
    return ResourceFetcher(
        forwarder,
        store,
        most_bytes=settings.cache.max_resource_bytes,
        within_s=2 * settings.upstream.read_timeout_s,
        telemetry=telemetry,
        clock=clock,
    )


def _links(server: ServerSection) -> LinkStyle:
    return LinkStyle(server.links == "absolute", server.public_url, server.trusted_proxies)


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
    from proxy.upstream.auth import RedisVault

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


@immutable
class Parts:
    """What a proxy is made of; *clients* are its connections upstream and to IAM."""

    telemetry: Telemetry
    loop_clock: LoopClock
    store: SpanStore
    clients: tuple[UpstreamClient, ...]
    shield: Shield
    entrance: Entrance
    admission: Admission
    answers: Answering

    @property
    def epoch(self) -> int | None:
        """See `ListingGateway.epoch`."""
        return self.answers.listings.epoch

    async def close(self) -> None:
        """End what is under way, from what answers requests down to the store."""
        await self.answers.close()
        await self.entrance.close()
        await self.shield.close()
        for client in self.clients:
            await client.close()
        await self.store.close()
        self.loop_clock.stop()


async def put_together(settings: Settings, telemetry: Telemetry, candidate: bytes) -> Parts:
    """Return the parts; partitions are made with the secret *candidate* where no other is configured or shared."""

    def heard(scopes: Iterable[str] | None) -> None:
        entrance.heard(scopes)  # which is made after the store: what it asks of IAM counts in the store's books
        if scopes is None:
            shield.listening()

    loop_clock = LoopClock()
    loop_clock.start()
    telemetry.watch_event_loop(lambda: loop_clock.lag_s)
    store = _store(settings, telemetry, loop_clock, heard)
    client = _client(settings.upstream.url, settings.upstream)
    shield = Shield(settings, client, store, telemetry)
    iam = _client(settings.identity.iam_url, settings.upstream) if settings.identity.iam_url else None
    entrance = Entrance(
        settings,
        iam=Iam(shield.before_iam(iam), telemetry=telemetry) if iam else None,
        tell=lambda scopes: store.invalidate(scopes, now=time.time()),
    )
    asks = asking(settings, await _secret(settings, store, candidate))
    admission = shield.admission()
    answers = answering(
        settings,
        entrance.asked(shield.limiter, asks.partitioner, shared_vault(settings.store, store, asks.partitioner)),
        store,
        asks,
        telemetry=telemetry,
        clock=time.time,
        dice=random,
        door=entrance.door(asks.partitioner),
        claimants=shield.claimants(asks.partitioner),
        admission=admission,
        drop=entrance.drop,
        thrift=shield.thrift(),
    )
    clients = (client, iam) if iam else (client,)
    return Parts(telemetry, loop_clock, store, clients, shield, entrance, admission, answers)


def _client(origin: str, upstream: UpstreamSection) -> UpstreamClient:
    return UpstreamClient(
        origin,
        connect_s=upstream.connect_timeout_s,
        read_s=upstream.read_timeout_s,
        max_connections=upstream.max_connections,
        tls=_asking(upstream) if origin.startswith("https:") else None,
    )


def _asking(upstream: UpstreamSection) -> Callable[[], ssl.SSLContext]:
    pair = (upstream.client_cert, upstream.client_key) if upstream.client_cert and upstream.client_key else None
    return tls.asking(upstream.ca_file, pair, minimum=upstream.tls_min_version, strict=upstream.tls_strict)


def _store(
    settings: Settings,
    telemetry: Telemetry,
    loop_clock: LoopClock,
    heard: Callable[[Iterable[str] | None], None],
) -> SpanStore:
    memory = MemoryStore(settings.store.max_bytes)
    if settings.store.url.startswith("memory:"):
        return memory
    from proxy.storage.redis import connected
    from proxy.storage.redis_scripts import of_upstream
    from proxy.storage.tiered import OutageMode, TieredStore

    timeout_s = settings.store.timeout_ms / 1000
    lifetimes = rules(settings.cache)
    redis = connected(
        settings.store.url,
        prefix=of_upstream(settings.store.prefix, settings.upstream.url),
        keep_s=lifetimes.longest_s,
        timeout_s=timeout_s,
        seal=sealing(settings.store.seal, settings.store.keys),
    )
    store = TieredStore(
        memory,
        redis,
        near_ttl_s=settings.store.near_ttl_s,
        stale_s=lifetimes.longest_s,
        timeout_s=timeout_s,
        failed=telemetry.store_failed,
        loop_clock=loop_clock,
        outage_mode=OutageMode(settings.store.outage_mode),
        heard=heard,
    )
    telemetry.watch_store(circuit_open=lambda: store.breaker.is_open, bus_up=lambda: store.bus_up)
    store.start()
    return store


async def _secret(settings: Settings, store: SpanStore, candidate: bytes) -> bytes:
    """Return the key of the partitions' digests: the configured one, or one from `store.key`, or the one that is in the
    store: *candidate*, where it is the first.
    """
    if settings.identity.secret is not None:
        return settings.identity.secret.get_secret_value().encode()
    if settings.store.key is not None:
        return derived(settings.store.key.get_secret_value().encode(), "partitions")
    try:
        return await store.shared_secret(candidate)
    except StoreUnavailableError:
        event(
            "secret-not-shared",
            level=30,
            fact="the store is away; if it comes back with another, nothing is shared until the next start",
        )
        return candidate
