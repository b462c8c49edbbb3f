"""The composition root: makes the parts of a proxy from the settings, put together but not yet listening.

The parts that answer requests are the same before a real upstream and before a recorded one.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import field, replace
from importlib.util import find_spec
from random import random
from typing import TYPE_CHECKING, Final

from pydantic import SecretStr
from yarl import URL

from proxy.auth.api_keys import parse_api_keys
from proxy.auth.authenticators import Authenticator, GatewayAuthenticator, ProjectAuthenticator, TokenAuthenticator
from proxy.auth.signed_requests import SignatureVerifier
from proxy.auth.token_acceptance import RevokeToken, TokenAcceptance
from proxy.auth.token_verifier import TokenVerifier
from proxy.caching.background import BudgetSaver
from proxy.config import tls
from proxy.config.model import IdentitySection, ServerSection, Settings, StoreSection, UpstreamSection
from proxy.config.policies import make_lifetime_rules, make_list_rules, make_resource_routes
from proxy.config.reload import ReloadedFile, ReloadedValue, read_text, single_line
from proxy.core.freshness import TrustPeriod
from proxy.core.messages import Request, Upstream
from proxy.core.partition import Partitioner
from proxy.core.signing import SigningKey
from proxy.core.values import immutable
from proxy.errors import StoreUnavailableError
from proxy.gateway.admission import Admission
from proxy.gateway.gateway import Gateway
from proxy.listing.fetcher import SpanFetcher
from proxy.listing.page_cache import PageRenderer
from proxy.listing.prefetch import FetchSizing
from proxy.listing.rendering import LinkStyle
from proxy.listing.request import ListRules
from proxy.listing.service import ListingService
from proxy.observability.event_loop import LoopClock
from proxy.observability.logging import Telemetry, log_event
from proxy.ratelimit.priority import CallPriorities
from proxy.resources.fetcher import ResourceFetcher
from proxy.resources.service import ListedImages, ResourceService
from proxy.runtime.shield import RateLimiting
from proxy.storage.base import SpanStore
from proxy.storage.memory import MemoryStore
from proxy.storage.sealing import derive_key, make_seal
from proxy.upstream.auth import (
    AccessKeyAuth,
    AuthenticatedUpstream,
    IdentitySnapshot,
    OwnIdentity,
    SecretStore,
    SharedLogin,
    TokenAuth,
    UpstreamAuth,
)
from proxy.upstream.client import UpstreamClient
from proxy.upstream.forward import Forwarder
from proxy.upstream.keystone import IssuedToken, KeystoneClient, access_key_auth_request, password_auth_request

if TYPE_CHECKING:  # it imports redis, which a proxy without one does without
    from proxy.storage.tiered import TieredStore

_ENCODED_SHARE: Final = 1 / 64  # of `store.max_bytes`: resources in a content coding
_RENDERED_SHARE: Final = 0.25  # of `store.max_bytes`: rendered pages beside the spans they come from


@immutable
class Engines:
    """The *gateway*, and the parts of it that have work of their own under way."""

    gateway: Gateway
    listings: ListingService
    resources: ResourceService

    @property
    def is_busy(self) -> bool:
        """Whether something is being fetched that no caller waits for."""
        return len(self.listings.background) + len(self.resources.background) > 0

    async def close(self) -> None:
        """End what is under way, or wait for it where it has a time limit of its own."""
        await self.gateway.close()
        await self.resources.close()
        await self.listings.close()


def make_engines(
    settings: Settings,
    upstream: Upstream,
    store: SpanStore,
    list_rules: ListRules,
    *,
    telemetry: Telemetry,
    clock: Callable[[], float],
    rng: Callable[[], float],
    authenticator: Authenticator,
    priorities: CallPriorities | None = None,
    admission: Admission | None = None,
    revoke_token: RevokeToken | None = None,
    budget_saver: BudgetSaver | None = None,
) -> Engines:
    """Return what answers requests from *store* and *upstream*; see the parts for what each argument is."""
    fetcher = SpanFetcher(upstream, store, telemetry=telemetry, clock=clock, rng=rng)
    listings = _make_listing_service(settings, fetcher, store, clock, revoke_token, budget_saver)
    forwarder = Forwarder(upstream, telemetry=telemetry, clock=clock)
    resource_fetcher = _make_resource_fetcher(settings, forwarder, store, telemetry, clock)
    resources = _make_resource_service(settings, resource_fetcher, store, listings.acceptance, clock, budget_saver)
    renderer = PageRenderer(int(settings.store.max_bytes * _RENDERED_SHARE))
    gateway = Gateway(
        listings,
        forwarder,
        renderer,
        list_rules=list_rules,
        link_style=_make_link_style(settings.server),
        store=store,
        clock=clock,
        authenticator=authenticator,
        priorities=priorities,
        admission=admission,
        resources=resources,
        resource_routes=make_resource_routes(settings.cache),
    )
    return Engines(gateway, listings, resources)


def _make_listing_service(
    settings: Settings,
    fetcher: SpanFetcher,
    store: SpanStore,
    clock: Callable[[], float],
    revoke_token: RevokeToken | None,
    budget_saver: BudgetSaver | None,
) -> ListingService:
    return ListingService(
        fetcher,
        store,
        sizing=FetchSizing(settings.upstream.max_page, settings.cache.readahead),
        trust=TrustPeriod(settings.identity.verdict_ttl_s, settings.identity.verdict_grace_s),
        negative_s=settings.cache.negative_ttl_s,
        clock=clock,
        revoke_token=revoke_token,
        budget_saver=budget_saver,
    )


def _make_resource_service(
    settings: Settings,
    fetcher: ResourceFetcher,
    store: SpanStore,
    acceptance: TokenAcceptance,
    clock: Callable[[], float],
    budget_saver: BudgetSaver | None,
) -> ResourceService:
    return ResourceService(
        fetcher,
        acceptance,
        negative_s=settings.cache.negative_ttl_s,
        coded_bytes=int(settings.store.max_bytes * _ENCODED_SHARE),
        clock=clock,
        budget_saver=budget_saver,
        items=ListedImages(store, clock=clock) if settings.cache.item_from_list else None,
    )


def _make_resource_fetcher(
    settings: Settings, forwarder: Forwarder, store: SpanStore, telemetry: Telemetry, clock: Callable[[], float]
) -> ResourceFetcher:
    return ResourceFetcher(
        forwarder,
        store,
        max_bytes=settings.cache.max_resource_bytes,
        time_limit_s=2 * settings.upstream.read_timeout_s,
        telemetry=telemetry,
        clock=clock,
    )


def _make_link_style(server: ServerSection) -> LinkStyle:
    return LinkStyle(server.links == "absolute", server.public_url, server.trusted_proxies)


@immutable
class _IdentitySecrets:
    """What tells the proxy's identity and proves it, `""` where it has no such part."""

    access: str
    secret: str = field(repr=False)
    security_token: str | None = field(repr=False)
    password: str = field(repr=False)


def make_identity_reader(identity: IdentitySection, *, host: str) -> Callable[[], IdentitySnapshot]:
    """Return what reads who the proxy is to the upstream *host*.

    That is an access key or a user, whose parts may come from files: those are read again, all of them together.
    """
    files = {
        "access": identity.access_key_file,
        "secret": identity.secret_key_file,
        "security_token": identity.security_token_file,
        "password": identity.password_file,
    }
    watched_files = {name: file for name, file in files.items() if file is not None}
    fixed = _IdentitySecrets(
        access=identity.access_key or "",
        secret=_reveal(identity.secret_key) or "",
        security_token=_reveal(identity.security_token),
        password=_reveal(identity.password) or "",
    )
    if not watched_files:
        snapshot = _make_identity_snapshot(identity, fixed, host)
        return lambda: snapshot

    def read_snapshot() -> IdentitySnapshot:
        parts = replace(fixed, **{name: single_line(read_text(file)) for name, file in watched_files.items()})
        return _make_identity_snapshot(identity, parts, host)

    return ReloadedValue(watched_files.values(), read_snapshot, wait_until_stable=len(watched_files) > 1)


def _make_identity_snapshot(identity: IdentitySection, secrets: _IdentitySecrets, host: str) -> IdentitySnapshot:
    """Return who *secrets* make the proxy to *host*; a key that is replaced makes it another."""
    user, domain, project_id = identity.user or "", identity.domain or "", identity.project_id or ""
    if secrets.access:
        principal: tuple[str, ...] = (secrets.access,)
        order = access_key_auth_request(access=secrets.access, secret=secrets.secret, project_id=project_id)
    else:
        principal = (domain, user)
        order = password_auth_request(user=user, domain=domain, password=secrets.password, project_id=project_id)
    key = SigningKey(secrets.access, secrets.secret, secrets.security_token)
    return IdentitySnapshot((*principal, project_id, host), key, order.decode())


def make_upstream_auth(
    identity: IdentitySection,
    identity_for: Callable[[Request], IdentitySnapshot],
    *,
    host: str,
    iam: KeystoneClient | None,
    secrets: SecretStore | None,
) -> UpstreamAuth:
    """Return what goes upstream with each request, as *identity_for* says for whom: a signature, or a token that *iam*
    gives.

    Replicas share a token by *secrets*.
    """
    if identity.access_key is not None and identity.access_key_use == "sign":
        return AccessKeyAuth(identity_for, host=host, project_id=identity.project_id, clock=time.time)
    assert iam is not None

    async def issue_token(order: str) -> IssuedToken:
        return await iam.issue_token(order.encode())

    shared_login = SharedLogin(issue_token, secrets, clock=time.time) if secrets else None

    async def get_token(snapshot: IdentitySnapshot, rejected_token: str | None) -> IssuedToken:
        return await (
            shared_login.get_token(snapshot.order, rejected_token) if shared_login else issue_token(snapshot.order)
        )

    return TokenAuth(get_token, identity_for=identity_for, clock=time.time)


def _make_secret_store(
    store_settings: StoreSection, tiered: TieredStore | None, partitioner: Partitioner
) -> SecretStore | None:
    """Return what keeps the token of the proxy's own for all replicas, None where each has to log in for itself.

    That takes a Redis, `store.key` and the package `cryptography`: a token is kept encrypted or not at all.
    """
    if tiered is None or not store_settings.sealing_keys or find_spec("cryptography") is None:
        return None
    from proxy.upstream.auth import RedisSecretStore

    return RedisSecretStore(
        tiered.far,
        lambda order: partitioner.for_own_identity(order).digest,
        [key.encode() for key in store_settings.sealing_keys],
        breaker=tiered.breaker,
        timeout_s=store_settings.timeout_ms / 1000,
    )


def _reveal(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None


class IdentityParts:
    """The authenticator, and the credentials that go upstream.

    *iam* is asked about tokens; *publish_tags* is given the scopes that every replica has to hear of.
    """

    def __init__(
        self, settings: Settings, *, iam: KeystoneClient | None, publish_tags: Callable[[list[str]], Awaitable[None]]
    ) -> None:
        self._settings = identity = settings.identity
        self._host = URL(settings.upstream.url).host_port_subcomponent or ""
        self._iam = iam
        self._token_verifier = None
        if identity.mode == "project" and iam is not None:
            trust = TrustPeriod(identity.verdict_ttl_s, identity.verdict_grace_s)
            self._token_verifier = TokenVerifier(iam, trust=trust, publish_tags=publish_tags, clock=time.time)
        self._read_own_identity = make_identity_reader(identity, host=self._host)

    def apply_invalidation(self, tags: Iterable[str] | None) -> None:
        """See `TokenVerifier.apply_invalidation`."""
        if self._token_verifier is not None:
            self._token_verifier.apply_invalidation(tags)

    async def revoke_token(self, digest: str, force: bool) -> None:
        """See `proxy.auth.token_acceptance.RevokeToken`."""
        if self._token_verifier is not None:
            await self._token_verifier.revoke_token(digest, force=force)

    def add_upstream_auth(self, upstream: Upstream, partitioner: Partitioner, secrets: SecretStore | None) -> Upstream:
        """Return *upstream* as it is asked: with the proxy's own credentials, where it has them.

        Replicas share a token of its own by *secrets*.
        """
        if self._settings.mode != "gateway":
            return upstream
        identity_for = OwnIdentity(self._read_own_identity, partitioner).for_request
        return AuthenticatedUpstream(
            upstream, make_upstream_auth(self._settings, identity_for, host=self._host, iam=self._iam, secrets=secrets)
        )

    def make_authenticator(self, partitioner: Partitioner) -> Authenticator:
        """Return where callers come in."""
        identity = self._settings
        if identity.mode == "gateway":
            api_keys = ReloadedFile(identity.api_keys_file, parse_api_keys) if identity.api_keys_file else None
            own_identity = OwnIdentity(self._read_own_identity, partitioner)
            return GatewayAuthenticator(
                own_partition=lambda: own_identity.partition,
                api_keys=api_keys,
                may_write=identity.allow_writes,
                clock=time.time,
            )
        signature_verifier = None
        if identity.access_keys:
            secrets = {access: ReloadedFile(path, single_line) for access, path in identity.access_keys.items()}
            signature_verifier = SignatureVerifier(
                partitioner,
                find_secret=lambda access: secrets[access]() if access in secrets else None,
                host=self._host,
                clock=time.time,
            )
        if self._token_verifier is not None:
            return ProjectAuthenticator(partitioner, signature_verifier, token_verifier=self._token_verifier)
        return TokenAuthenticator(partitioner, signature_verifier)

    async def close(self) -> None:
        """End what is under way."""
        if self._token_verifier is not None:
            await self._token_verifier.close()


@immutable
class Container:
    """What a proxy is made of; *upstream_clients* are its connections upstream and to IAM."""

    telemetry: Telemetry
    loop_clock: LoopClock
    store: SpanStore
    upstream_clients: tuple[UpstreamClient, ...]
    rate_limiting: RateLimiting
    identity: IdentityParts
    admission: Admission
    engines: Engines

    @property
    def epoch(self) -> int | None:
        """See `ListingService.epoch`."""
        return self.engines.listings.epoch

    async def close(self) -> None:
        """End what is under way, from what answers requests down to the store."""
        await self.engines.close()
        await self.identity.close()
        await self.rate_limiting.close()
        for client in self.upstream_clients:
            await client.close()
        await self.store.close()
        self.loop_clock.stop()


async def build_container(settings: Settings, telemetry: Telemetry, candidate_secret: bytes) -> Container:
    """Return the parts; partitions are made with the secret *candidate_secret* where no other is configured or
    shared.
    """

    def on_invalidation(tags: Iterable[str] | None) -> None:
        identity.apply_invalidation(tags)  # made after the store: its calls to IAM count in the store's call log
        if tags is None:
            rate_limiting.note_connected()

    loop_clock = LoopClock()
    loop_clock.start()
    telemetry.watch_event_loop(lambda: loop_clock.lag_s)
    memory = MemoryStore(settings.store.max_bytes)
    tiered = _make_tiered_store(settings, memory, telemetry, loop_clock, on_invalidation)
    store: SpanStore = tiered or memory
    client = _make_client(settings.upstream.url, settings.upstream)
    rate_limiting = RateLimiting(settings, client, tiered, telemetry)
    iam = _make_client(settings.identity.iam_url, settings.upstream) if settings.identity.iam_url else None
    identity = IdentityParts(
        settings,
        iam=KeystoneClient(rate_limiting.make_iam_limiter(iam), telemetry=telemetry) if iam else None,
        publish_tags=lambda scopes: store.invalidate(scopes, now=time.time()),
    )
    list_rules = make_list_rules(settings, await _resolve_partition_secret(settings, store, candidate_secret))
    admission = rate_limiting.make_admission()
    engines = make_engines(
        settings,
        identity.add_upstream_auth(
            rate_limiting.limiter,
            list_rules.partitioner,
            _make_secret_store(settings.store, tiered, list_rules.partitioner),
        ),
        store,
        list_rules,
        telemetry=telemetry,
        clock=time.time,
        rng=random,
        authenticator=identity.make_authenticator(list_rules.partitioner),
        priorities=rate_limiting.make_call_priorities(list_rules.partitioner),
        admission=admission,
        revoke_token=identity.revoke_token,
        budget_saver=rate_limiting.make_budget_saver(),
    )
    clients = (client, iam) if iam else (client,)
    return Container(telemetry, loop_clock, store, clients, rate_limiting, identity, admission, engines)


def _make_client(origin: str, upstream: UpstreamSection) -> UpstreamClient:
    return UpstreamClient(
        origin,
        connect_s=upstream.connect_timeout_s,
        read_s=upstream.read_timeout_s,
        max_connections=upstream.max_connections,
        tls=_make_client_tls_contexts(upstream) if origin.startswith("https:") else None,
    )


def _make_client_tls_contexts(upstream: UpstreamSection) -> Callable[[], ssl.SSLContext]:
    certificate_and_key = (
        (upstream.client_cert, upstream.client_key) if upstream.client_cert and upstream.client_key else None
    )
    return tls.make_client_contexts(
        upstream.ca_file, certificate_and_key, min_version=upstream.tls_min_version, strict=upstream.tls_strict
    )


def _make_tiered_store(
    settings: Settings,
    memory: MemoryStore,
    telemetry: Telemetry,
    loop_clock: LoopClock,
    on_invalidation: Callable[[Iterable[str] | None], None],
) -> TieredStore | None:
    """Return the store that replicas share, started, with *memory* before it; None if each is on its own."""
    if not settings.store.is_shared:
        return None
    from proxy.storage.redis import connect
    from proxy.storage.redis_scripts import prefix_for_upstream
    from proxy.storage.tiered import OutageMode, TieredStore

    timeout_s = settings.store.timeout_ms / 1000
    lifetimes = make_lifetime_rules(settings.cache)
    redis = connect(
        settings.store.url,
        prefix=prefix_for_upstream(settings.store.prefix, settings.upstream.url),
        keep_s=lifetimes.max_useful_s,
        timeout_s=timeout_s,
        seal=make_seal(settings.store.seal, settings.store.sealing_keys),
    )
    store = TieredStore(
        memory,
        redis,
        near_ttl_s=settings.store.near_cache_ttl_s,
        stale_s=lifetimes.max_useful_s,
        timeout_s=timeout_s,
        on_failure=telemetry.record_store_error,
        loop_clock=loop_clock,
        outage_mode=OutageMode(settings.store.outage_mode),
        on_invalidation=on_invalidation,
    )
    telemetry.watch_store(circuit_open=lambda: store.breaker.is_open, bus_up=lambda: store.bus_up)
    store.start()
    return store


async def _resolve_partition_secret(settings: Settings, store: SpanStore, candidate_secret: bytes) -> bytes:
    """Return the key of the partitions' digests: the configured one, or one from `store.key`, or the one that is in the
    store: *candidate_secret*, where it is the first.
    """
    if settings.identity.secret is not None:
        return settings.identity.secret.get_secret_value().encode()
    if settings.store.key is not None:
        return derive_key(settings.store.key.get_secret_value().encode(), "partitions")
    try:
        return await store.shared_secret(candidate_secret)
    except StoreUnavailableError:
        log_event(
            "secret_not_shared",
            level=30,
            reason="store unavailable; if it returns with another secret, nothing is shared until the next restart",
        )
        return candidate_secret
