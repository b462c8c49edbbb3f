"""A proxy from its first listening to its last answer; `proxy.runtime.container` puts it together."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

from aiohttp import web

from proxy.admin import app as admin
from proxy.admin.app import Runner
from proxy.admin.explain import explain_target
from proxy.admin.stats import Statistics
from proxy.config import tls
from proxy.config.model import ServerSection, Settings
from proxy.core.values import immutable
from proxy.errors import StoreUnavailableError
from proxy.observability.logging import Telemetry, log_event
from proxy.ratelimit.memory_store import StoreOutage
from proxy.runtime.container import Container, build_container
from proxy.runtime.rlimits import max_client_connections, raise_open_files
from proxy.runtime.supervision import stop_signals
from proxy.server.acceptor import Acceptor, ConnectionTable, WorkerLoad
from proxy.server.fast_path import ReplayCache
from proxy.server.handler import RequestHandler
from proxy.storage.base import SpanStore

BACKLOG: Final = 4096  # connections that wait to be accepted; with fewer a burst of callers waits for a second or more
_MAX_IDLE_WAIT_S: Final = 0.25  # in which a request that was on its way when the proxy was told to stop still comes
_REPLAY_SHARE: Final = 0.125  # of `store.max_bytes`: answers repeated as they are, mostly rendered pages


@immutable
class Running:
    """A proxy that runs: where callers and operators come."""

    url: str
    admin_url: str


@immutable
class WorkerContext:
    """What the supervisor gives a worker: sockets that listen for *client_sockets* and for *admin_socket*, and a
    *secret*.

    Partitions are made with the *secret*, the same for all workers, where no other is configured or shared. In
    *connections* the workers see how many connections each has; this one has the given *number*, from 0.
    """

    client_sockets: Sequence[socket.socket]
    admin_socket: Sequence[socket.socket]
    secret: bytes
    connections: ConnectionTable
    number: int


@asynccontextmanager
async def running(
    settings: Settings, place: WorkerContext | None = None, *, skip_delay: asyncio.Event | None = None
) -> AsyncIterator[Running]:
    """Run a proxy for as long as the context lasts, on its own or as a worker at its *place*; on leaving it drains.

    Setting *skip_delay* skips `server.drain_delay_s`, or what is left of it.
    Raises `OSError` where an address can't be listened on.
    """
    telemetry = Telemetry(access_log=settings.log.access)
    parts = await build_container(settings, telemetry, place.secret if place else secrets.token_bytes(32))
    listeners = _Listeners(settings, parts, place)
    try:
        yield await listeners.start()
    finally:
        await listeners.stop(skip_delay or asyncio.Event())


class _Listeners:
    """What listens for callers and for operators, before *parts*; on its own or as a worker at its *place*."""

    def __init__(self, settings: Settings, parts: Container, place: WorkerContext | None) -> None:
        self._settings = settings
        self._container = parts
        self._worker = place
        self._replay_cache = _make_replay_cache(settings, parts)
        # Where callers' requests are counted, each has to come as far as the gateway.
        front = RequestHandler(
            parts.engines.gateway,
            parts.telemetry,
            replay_cache=None if parts.admission.limits_callers else self._replay_cache,
        )
        self._server = front.make_server(
            most=max_client_connections(raise_open_files(), upstream=settings.upstream.max_connections)
        )
        self._client_runner = web.ServerRunner(self._server, shutdown_timeout=settings.server.drain_s)
        self._acceptor: Acceptor | None = None
        self._draining = asyncio.Event()
        self._admin_runner = Runner(_admin_operations(settings, parts, self._draining))
        self._started = False

    async def start(self) -> Running:
        """Let callers and operators in, and return where they come. Raises `OSError` where they can't."""
        settings, place = self._settings, self._worker
        await self._container.rate_limiting.start()
        await self._admin_runner.setup()
        await self._client_runner.setup()
        context = _run_on_sockets(settings.server)
        bound = place.client_sockets if place else open_sockets(settings.server.listen)
        load = self._server.load = WorkerLoad(place.connections, place.number) if place else None
        self._acceptor = Acceptor(bound, self._server, context=context, load=load)
        self._acceptor.start()
        url = _format_url(settings.server.listen, bound, secure=context is not None)
        # Only now: a client that reads here that the proxy is ready may call it at once.
        bound = place.admin_socket if place else open_sockets(settings.admin.listen)
        for each in bound:
            await web.SockSite(self._admin_runner, each).start()
        admin_url = _format_url(settings.admin.listen, bound)
        self._started = True
        self._container.telemetry.ready.set(1)
        log_event(
            "worker-listening" if place else "listening",
            callers=url,
            operators=admin_url,
            upstream=settings.upstream.url,
        )
        return Running(url, admin_url)

    async def stop(self, skip_delay: asyncio.Event) -> None:
        """Drain: serve on during the delay, let nobody new in, finish what is under way, and close the parts.

        It also cleans up after a start that failed.
        """
        delay_s, drain_s = self._settings.server.drain_delay_s, self._settings.server.drain_s
        self._draining.set()
        self._server.draining = True  # each answer from now on closes its connection
        self._container.telemetry.ready.set(0)
        self._replay_cache.close()  # what it would repeat does not say so
        if self._started:
            log_event("draining", delay_s=delay_s, at_most_s=drain_s)
            await _wait(skip_delay, at_most_s=delay_s)
        if self._acceptor is not None:
            await self._acceptor.stop()
        await self._server.drain(min(_MAX_IDLE_WAIT_S, drain_s))
        await self._client_runner.cleanup()
        await self._container.close()
        await self._admin_runner.cleanup()
        if self._started:
            log_event("stopped")


def _make_replay_cache(settings: Settings, parts: Container) -> ReplayCache:
    """Return the memory of answers to repeat; it keeps none where process memory is to keep none."""
    max_bytes = int(settings.store.max_bytes * _REPLAY_SHARE)
    return ReplayCache(max_bytes=max_bytes, epoch=lambda: parts.epoch, clock=time.time)


async def serve(settings: Settings) -> signal.Signals:
    """Run a proxy until SIGTERM, SIGINT or SIGHUP, and return which it was."""
    signals = StopSignals()
    async with running(settings, skip_delay=signals.skip_delay):
        return await signals.first


class StopSignals:
    """The signals that end the proxy, from now on: *first* is the one that arrived first.

    *skip_delay* is set by SIGINT, and by any signal after the first: nobody wants to wait for `server.drain_delay_s`.

    A child of the supervisor is given the pipe *life*, whose end says that the supervisor is gone; it counts as SIGINT.
    Only SIGINT ends the delay of a child. Process managers send SIGTERM to a whole group, and the supervisor passes on
    its own, so a child often gets two for one.
    """

    def __init__(self, life: int | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.first: asyncio.Future[signal.Signals] = loop.create_future()
        self.skip_delay = asyncio.Event()
        self._supervised = life is not None
        for number in stop_signals():
            loop.add_signal_handler(number, self._receive, number)
        if life is not None:
            loop.add_reader(life, self._notice_end_of_supervisor, life)

    def _receive(self, number: signal.Signals) -> None:
        if number is signal.SIGINT or (self.first.done() and not self._supervised):
            self.skip_delay.set()
        if not self.first.done():
            self.first.set_result(number)

    def _notice_end_of_supervisor(self, life: int) -> None:
        asyncio.get_running_loop().remove_reader(life)
        self._receive(signal.SIGINT)


async def _wait(event: asyncio.Event, *, at_most_s: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(at_most_s):
            await event.wait()


def _admin_operations(settings: Settings, parts: Container, draining: asyncio.Event) -> web.Application:
    """Return what answers operators; while *draining* is set it says that the proxy is not ready."""
    store = parts.store
    operations = admin.Operations(
        telemetry=parts.telemetry,
        readiness=lambda: _make_readiness(store, draining, parts.rate_limiting.store.store_outage()),
        purge_order=parts.engines.gateway.purge,
        stored_bytes=lambda: store.stored_bytes,
        statistics=Statistics(
            parts.telemetry.registry, store, parts.rate_limiting.state, max_bytes=settings.store.max_bytes
        ),
        explain=lambda target: explain_target(target, settings),
    )
    return admin.application(
        operations, token=settings.admin.token.get_secret_value() if settings.admin.token else None
    )


def _run_on_sockets(server: ServerSection) -> ssl.SSLContext | None:
    if server.tls_cert is None or server.tls_key is None:
        return None
    return tls.make_server_context((server.tls_cert, server.tls_key), minimum=server.tls_min_version)


async def _make_readiness(store: SpanStore, draining: asyncio.Event, without: StoreOutage | None) -> Mapping[str, str]:
    """Return how each part is. A store that is unavailable makes the proxy slower, not unready."""
    parts = {"listener": admin.DRAINING if draining.is_set() else "ok"}
    parts |= await _check_store(store, ping=not draining.is_set())
    if without is not None:
        wait = f", no calls for {without.no_calls_for_s:.0f} s" if without.no_calls_for_s else ""
        parts["budget"] = f"without the store: mode {without.mode}, share {without.share}{wait}"
    return parts


async def _check_store(store: SpanStore, *, ping: bool) -> dict[str, str]:
    """Return how the store and its parts are; without *ping* as far as it is known, which takes no time."""
    said = "ok"
    try:
        if ping:
            await store.ping()
    except StoreUnavailableError:
        said = "unavailable, answers come from the upstream"
    parts = dict(store.health().parts)
    parts.pop("memory", None)
    redis = parts.pop("redis", "ok")
    return {"store": said if redis == "ok" else redis} | parts


def open_sockets(address: str) -> list[socket.socket]:
    """Return sockets that listen at *address*, HOST:PORT, on each address that its host has; port 0 is a free one.

    Raises `OSError` where that can't be done.
    """
    host, _, port = address.rpartition(":")
    bound: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, where in dict.fromkeys(found):
            bound.append(socket.create_server(where[:2], family=family, backlog=BACKLOG))
    except OSError as error:
        for each in bound:
            each.close()
        raise explain_listen_error(address, error) from error
    return bound


def explain_listen_error(address: str, error: OSError) -> OSError:
    """Return *error*, which kept us from listening there, with the *address* in what it says."""
    number = error.errno or 0
    return OSError(number, f"{address}: {os.strerror(number) if number > 0 else error.strerror}")


def _format_url(address: str, bound: Sequence[socket.socket], *, secure: bool = False) -> str:
    return make_url(address.rpartition(":")[0], bound[0].getsockname()[1], secure=secure)


def make_url(host: str, port: int, *, secure: bool = False) -> str:
    """Return the URL of what listens there."""
    return f"{'https' if secure else 'http'}://{host}:{port}"
