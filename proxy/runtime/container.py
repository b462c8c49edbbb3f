"""The composition root: settings in, the parts of a proxy out, put together but not yet listening."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterable
from random import random

from proxy.config import tls
from proxy.config.model import Settings, UpstreamSection
from proxy.config.policies import asking, rules
from proxy.core.values import immutable
from proxy.errors import StoreUnavailableError
from proxy.gateway.admission import Admission
from proxy.observability.event_loop import LoopClock
from proxy.observability.logging import Telemetry, event
from proxy.runtime.answering import Answering, answering
from proxy.runtime.entrance import Entrance
from proxy.runtime.own import shared_vault
from proxy.runtime.shield import Shield
from proxy.storage.base import SpanStore
from proxy.storage.memory import MemoryStore
from proxy.storage.sealing import derived, sealing
from proxy.upstream.client import UpstreamClient
from proxy.upstream.keystone import Iam


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
    from proxy.storage.names import of_upstream
    from proxy.storage.redis import connected
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
