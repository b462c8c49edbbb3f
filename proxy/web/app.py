"""The composition root: settings in, a running proxy out."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import random
from typing import Final

from aiohttp import web

from proxy import tls
from proxy.config import ServerSection, Settings, UpstreamSection
from proxy.errors import StoreUnavailableError
from proxy.explain import assumed_explanation
from proxy.stores.base import SpanStore
from proxy.stores.memory import MemoryStore
from proxy.stores.seal import derived, sealing
from proxy.telemetry import Telemetry, event
from proxy.upstream.client import UpstreamClient
from proxy.upstream.iam import Iam
from proxy.web import admin
from proxy.web.answering import answering
from proxy.web.asking import asking, rules
from proxy.web.entrance import Entrance
from proxy.web.memo import HeadMemo
from proxy.web.operators import Runner
from proxy.web.own import vaults
from proxy.web.server import Front
from proxy.web.shield import Shield
from proxy.web.statistics import Statistics

_REPEATED_SHARE: Final = 0.125  # of `store.max_bytes`: answers repeated as they are, mostly rendered pages


@dataclass(frozen=True, slots=True)
class Running:
    """A proxy that runs: where callers and operators come."""

    url: str
    admin_url: str


@dataclass(frozen=True, slots=True)
class Place:
    """What a worker shares with others, or has from them: sockets that listen for callers and for operators, and the
    *secret* that partitions are made with where there is no other.
    """

    callers: Sequence[socket.socket]
    operators: Sequence[socket.socket]
    secret: bytes


@asynccontextmanager
async def running(settings: Settings, place: Place | None = None) -> AsyncIterator[Running]:
    """Run a proxy for as long as the context lasts, on its own or as a worker at its *place*; on leaving it drains.

    Raises `OSError` where an address can't be listened on.
    """
    telemetry = Telemetry(access_log=settings.log.access)

    def heard(scopes: Iterable[str] | None) -> None:
        entrance.heard(scopes)  # which is made after the store: what it asks of IAM counts in the store's books
        if scopes is None:
            shield.listening()

    store = _store(settings, telemetry, heard)
    client = _client(settings.upstream.url, settings.upstream)
    shield = Shield(settings, client, store, telemetry)
    iam = _client(settings.identity.iam_url, settings.upstream) if settings.identity.iam_url else None
    entrance = Entrance(
        settings,
        iam=Iam(shield.before_iam(iam), telemetry=telemetry) if iam else None,
        tell=lambda scopes: store.invalidate(scopes, now=time.time()),
    )
    asks = asking(settings, await _secret(settings, store, place.secret if place else secrets.token_bytes(32)))
    upstream = entrance.asked(shield.limiter, vaults(settings.store, store, asks.partitioner, telemetry))
    admission = shield.admission()
    answers = answering(
        settings,
        upstream,
        store,
        asks,
        telemetry=telemetry,
        clock=time.time,
        dice=random,
        door=entrance.door(asks.partitioner),
        claims=shield.claims(asks.partitioner),
        admission=admission,
        drop=entrance.drop,
        low=shield.limiter.low,
        thrift=shield.thrift,
    )
    draining = asyncio.Event()
    operators = Runner(
        admin.application(
            telemetry,
            readiness=lambda: _readiness(store, draining),
            purging=answers.gateway.purge,
            stored_bytes=lambda: store.stored_bytes,
            statistics=Statistics(telemetry.registry, store, shield, max_bytes=settings.store.max_bytes),
            explain=lambda target: assumed_explanation(target, settings),
            token=settings.admin.token.get_secret_value() if settings.admin.token else None,
        ),
    )
    memo = HeadMemo(
        max_bytes=int(settings.store.max_bytes * _REPEATED_SHARE), epoch=lambda: answers.listings.epoch, clock=time.time
    )
    # Where callers' requests are counted, each has to come as far as the gateway.
    front = Front(answers.gateway, telemetry, memo=None if admission.counts else memo)
    callers = web.ServerRunner(front.server(), shutdown_timeout=settings.server.drain_s)
    try:
        await shield.start()
        await operators.setup()
        await callers.setup()
        admin_url = await _listening(operators, settings.admin.listen, place.operators if place else ())
        url = await _listening(
            callers, settings.server.listen, place.callers if place else (), _serving(settings.server)
        )
        telemetry.ready.set(1)
        event(
            "worker-listening" if place else "listening",
            callers=url,
            operators=admin_url,
            upstream=settings.upstream.url,
        )
        yield Running(url, admin_url)
    finally:
        draining.set()
        telemetry.ready.set(0)
        memo.close()
        event("draining", at_most_s=settings.server.drain_s)
        await callers.cleanup()
        await answers.close()
        await entrance.close()
        await shield.close()
        await client.close()
        if iam is not None:
            await iam.close()
        await store.close()
        await operators.cleanup()
        event("stopped")


async def serve(settings: Settings) -> signal.Signals:
    """Run a proxy until SIGTERM or SIGINT, and return which it was."""
    stopped = stop_signal()
    async with running(settings):
        return await stopped


def stop_signal(life: int | None = None) -> asyncio.Future[signal.Signals]:
    """Return what is done when SIGTERM or SIGINT arrives, from now on: which of them it was.

    The end of the pipe *life* counts as SIGTERM.
    """
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[signal.Signals] = loop.create_future()

    def arrived(number: signal.Signals) -> None:
        if not stopped.done():
            stopped.set_result(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, arrived, number)
    if life is not None:
        loop.add_reader(life, _died, life, arrived)
    return stopped


def _died(life: int, arrived: Callable[[signal.Signals], None]) -> None:
    asyncio.get_running_loop().remove_reader(life)
    arrived(signal.SIGTERM)


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
    return tls.asking(upstream.ca_file, pair, minimum=upstream.tls_min_version)


def _serving(server: ServerSection) -> ssl.SSLContext | None:
    if server.tls_cert is None or server.tls_key is None:
        return None
    return tls.serving((server.tls_cert, server.tls_key), minimum=server.tls_min_version)


def _store(settings: Settings, telemetry: Telemetry, heard: Callable[[Iterable[str] | None], None]) -> SpanStore:
    memory = MemoryStore(settings.store.max_bytes)
    if settings.store.url.startswith("memory:"):
        return memory
    from proxy.stores.redis import connected
    from proxy.stores.tiered import TieredStore

    timeout_s = settings.store.timeout_ms / 1000
    lifetimes = rules(settings.cache)
    redis = connected(
        settings.store.url,
        prefix=settings.store.prefix,
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
        heard=heard,
    )
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
            fact="the store is away, so this process shares no answers with others until it is restarted",
        )
        return candidate


async def _readiness(store: SpanStore, draining: asyncio.Event) -> Mapping[str, str]:
    """Return how each part is. A store that is away makes the proxy slower, not unready."""
    try:
        await store.ping()
        said = "ok"
    except StoreUnavailableError:
        said = "away, answers come from the upstream"
    return {"listener": "not ready, draining" if draining.is_set() else "ok", "store": said}


async def _listening(
    runner: web.BaseRunner, address: str, bound: Sequence[socket.socket], context: ssl.SSLContext | None = None
) -> str:
    """Listen on *address*, HOST:PORT, or on what is *bound* to it, and return the URL; port 0 takes a free one."""
    host, _, port = address.rpartition(":")
    for each in bound:
        await web.SockSite(runner, each, ssl_context=context).start()
    if not bound:
        try:
            await web.TCPSite(runner, host.strip("[]"), int(port), ssl_context=context).start()
        except OSError as error:
            number = error.errno or 0
            raise OSError(number, f"{address}: {os.strerror(number) if number > 0 else error.strerror}") from error
    return url_of(host, runner.addresses[0][1], secure=context is not None)


def url_of(host: str, port: int, *, secure: bool = False) -> str:
    """Return the URL of what listens there."""
    return f"{'https' if secure else 'http'}://{host}:{port}"
