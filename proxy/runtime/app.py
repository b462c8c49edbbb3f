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
from proxy.admin.app import AdminRunner
from proxy.admin.explain import explain_target
from proxy.admin.stats import StatsCollector
from proxy.config import tls
from proxy.config.model import ServerSection, Settings
from proxy.core.values import immutable
from proxy.errors import StoreUnavailableError
from proxy.observability.logging import Telemetry, log_event
from proxy.ratelimit.memory_store import StoreOutage
from proxy.runtime.container import Container, build_container
from proxy.runtime.rlimits import max_client_connections, raise_open_file_limit
from proxy.runtime.supervision import stop_signals
from proxy.server.acceptor import Acceptor, ConnectionTable, WorkerLoad
from proxy.server.fast_path import ReplayCache
from proxy.server.handler import ClientRequestHandler
from proxy.storage.base import SpanStore

BACKLOG: Final = 4096  # connections that wait to be accepted; with fewer a burst of callers waits for a second or more
_MAX_IDLE_WAIT_S: Final = 0.25  # in which a request that was on its way when the proxy was told to stop still comes
_REPLAY_CACHE_SHARE: Final = 0.125  # of `store.max_bytes`: answers repeated as they are, mostly rendered pages


@immutable
class RunningProxy:
    """A proxy that runs: where callers and operators come."""

    url: str
    admin_url: str


@immutable
class WorkerContext:
    """What the supervisor gives a worker: sockets that listen for *client_sockets* and for *admin_sockets*, and a
    *partition_secret*.

    Partitions are made with the *partition_secret*, the same for all workers, where no other is configured or shared.
    In *connection_table* the workers see how many connections each has; this one has the given *worker_index*, from 0.
    """

    client_sockets: Sequence[socket.socket]
    admin_sockets: Sequence[socket.socket]
    partition_secret: bytes
    connection_table: ConnectionTable
    worker_index: int


@asynccontextmanager
async def run_proxy(
    settings: Settings, worker_context: WorkerContext | None = None, *, skip_delay: asyncio.Event | None = None
) -> AsyncIterator[RunningProxy]:
    """Run a proxy for as long as the context lasts, on its own or as a worker at its *worker_context*; on leaving it
    drains.

    Setting *skip_delay* skips `server.drain_delay_s`, or what is left of it.
    Raises `OSError` where an address can't be listened on.
    """
    telemetry = Telemetry(access_log=settings.log.access)
    container = await build_container(
        settings, telemetry, worker_context.partition_secret if worker_context else secrets.token_bytes(32)
    )
    listeners = _Listeners(settings, container, worker_context)
    try:
        yield await listeners.start()
    finally:
        await listeners.stop(skip_delay or asyncio.Event())


class _Listeners:
    """What listens for callers and for operators, before *container*; on its own or as a worker at its
    *worker_context*.
    """

    def __init__(self, settings: Settings, container: Container, worker_context: WorkerContext | None) -> None:
        self._settings = settings
        self._container = container
        self._worker_context = worker_context
        self._replay_cache = _make_replay_cache(settings, container)
        # Where callers' requests are counted, each has to come as far as the gateway.
        handler = ClientRequestHandler(
            container.engines.gateway,
            container.telemetry,
            replay_cache=None if container.admission.has_rate_limit else self._replay_cache,
        )
        self._server = handler.make_server(
            max_connections=max_client_connections(
                raise_open_file_limit(), upstream_connections=settings.upstream.max_connections
            )
        )
        self._client_runner = web.ServerRunner(self._server, shutdown_timeout=settings.server.drain_s)
        self._acceptor: Acceptor | None = None
        self._draining = asyncio.Event()
        self._admin_runner = AdminRunner(_make_admin_application(settings, container, self._draining))
        self._is_started = False

    async def start(self) -> RunningProxy:
        """Let callers and operators in, and return where they come. Raises `OSError` where they can't."""
        settings, worker_context = self._settings, self._worker_context
        await self._container.rate_limiting.start()
        await self._admin_runner.setup()
        await self._client_runner.setup()
        context = _make_server_tls_context(settings.server)
        sockets = worker_context.client_sockets if worker_context else open_listening_sockets(settings.server.listen)
        load = self._server.worker_load = (
            WorkerLoad(worker_context.connection_table, worker_context.worker_index) if worker_context else None
        )
        self._acceptor = Acceptor(sockets, self._server, ssl_context=context, worker_load=load)
        self._acceptor.start()
        url = _format_url(settings.server.listen, sockets, secure=context is not None)
        # Only now: a client that reads here that the proxy is ready may call it at once.
        sockets = worker_context.admin_sockets if worker_context else open_listening_sockets(settings.admin.listen)
        for each in sockets:
            await web.SockSite(self._admin_runner, each).start()
        admin_url = _format_url(settings.admin.listen, sockets)
        self._is_started = True
        self._container.telemetry.ready.set(1)
        log_event(
            "worker_listening" if worker_context else "listening",
            client_url=url,
            admin_url=admin_url,
            upstream=settings.upstream.url,
        )
        return RunningProxy(url, admin_url)

    async def stop(self, skip_delay: asyncio.Event) -> None:
        """Drain: serve on during the delay, let nobody new in, finish what is under way, and close the parts.

        It also cleans up after a start that failed.
        """
        delay_s, drain_s = self._settings.server.drain_delay_s, self._settings.server.drain_s
        self._draining.set()
        self._server.is_draining = True  # each answer from now on closes its connection
        self._container.telemetry.ready.set(0)
        self._replay_cache.close()  # what it would repeat does not say so
        if self._is_started:
            log_event("draining", delay_s=delay_s, drain_s=drain_s)
            await _wait_for_event(skip_delay, timeout_s=delay_s)
        if self._acceptor is not None:
            await self._acceptor.stop()
        await self._server.drain(min(_MAX_IDLE_WAIT_S, drain_s))
        await self._client_runner.cleanup()
        await self._container.close()
        await self._admin_runner.cleanup()
        if self._is_started:
            log_event("stopped")


def _make_replay_cache(settings: Settings, container: Container) -> ReplayCache:
    """Return the memory of answers to repeat; it keeps none where process memory is to keep none."""
    max_bytes = int(settings.store.max_bytes * _REPLAY_CACHE_SHARE)
    return ReplayCache(max_bytes=max_bytes, current_epoch=lambda: container.epoch, clock=time.time)


async def serve(settings: Settings) -> signal.Signals:
    """Run a proxy until SIGTERM, SIGINT or SIGHUP, and return which it was."""
    signals = StopSignals()
    async with run_proxy(settings, skip_delay=signals.skip_delay):
        return await signals.first_signal


class StopSignals:
    """The signals that end the proxy, from now on: *first_signal* is the one that arrived first.

    *skip_delay* is set by SIGINT, and by any signal after the first: nobody wants to wait for `server.drain_delay_s`.

    A child of the supervisor is given the pipe *life_pipe*, whose end says that the supervisor is gone; it counts as
    SIGINT. Only SIGINT ends the delay of a child. Process managers send SIGTERM to a whole group, and the supervisor
    passes on its own, so a child often gets two for one.
    """

    def __init__(self, life_pipe: int | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.first_signal: asyncio.Future[signal.Signals] = loop.create_future()
        self.skip_delay = asyncio.Event()
        self._is_supervised = life_pipe is not None
        for signum in stop_signals():
            loop.add_signal_handler(signum, self._handle_signal, signum)
        if life_pipe is not None:
            loop.add_reader(life_pipe, self._handle_supervisor_exit, life_pipe)

    def _handle_signal(self, signum: signal.Signals) -> None:
        if signum is signal.SIGINT or (self.first_signal.done() and not self._is_supervised):
            self.skip_delay.set()
        if not self.first_signal.done():
            self.first_signal.set_result(signum)

    def _handle_supervisor_exit(self, life_pipe: int) -> None:
        asyncio.get_running_loop().remove_reader(life_pipe)
        self._handle_signal(signal.SIGINT)


async def _wait_for_event(event: asyncio.Event, *, timeout_s: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()


def _make_admin_application(settings: Settings, container: Container, draining: asyncio.Event) -> web.Application:
    """Return what answers operators; while *draining* is set it says that the proxy is not ready."""
    store = container.store
    operations = admin.AdminHandlers(
        telemetry=container.telemetry,
        check_readiness=lambda: _check_readiness(store, draining, container.rate_limiting.store.store_outage()),
        execute_purge=container.engines.gateway.purge,
        count_stored_bytes=lambda: store.stored_bytes,
        collect_stats=StatsCollector(
            container.telemetry.registry, store, container.rate_limiting.state, max_bytes=settings.store.max_bytes
        ),
        explain=lambda target: explain_target(target, settings),
    )
    return admin.make_admin_app(
        operations, token=settings.admin.token.get_secret_value() if settings.admin.token else None
    )


def _make_server_tls_context(server: ServerSection) -> ssl.SSLContext | None:
    if server.tls_cert is None or server.tls_key is None:
        return None
    return tls.make_server_context((server.tls_cert, server.tls_key), min_version=server.tls_min_version)


async def _check_readiness(
    store: SpanStore, draining: asyncio.Event, store_outage: StoreOutage | None
) -> Mapping[str, str]:
    """Return how each part is. A store that is unavailable makes the proxy slower, not unready."""
    parts = {"listener": admin.DRAINING_STATUS if draining.is_set() else "ok"}
    parts |= await _check_store(store, ping=not draining.is_set())
    if store_outage is not None:
        wait = f", no calls for {store_outage.no_calls_for_s:.0f} s" if store_outage.no_calls_for_s else ""
        parts["budget"] = f"without the store: mode {store_outage.mode}, share {store_outage.share}{wait}"
    return parts


async def _check_store(store: SpanStore, *, ping: bool) -> dict[str, str]:
    """Return how the store and its parts are; without *ping* as far as it is known, which takes no time."""
    store_state = "ok"
    try:
        if ping:
            await store.ping()
    except StoreUnavailableError:
        store_state = "unavailable, answers come from the upstream"
    parts = dict(store.health().parts)
    parts.pop("memory", None)
    redis = parts.pop("redis", "ok")
    return {"store": store_state if redis == "ok" else redis} | parts


def open_listening_sockets(address: str) -> list[socket.socket]:
    """Return sockets that listen at *address*, HOST:PORT, on each address that its host has; port 0 is a free one.

    Raises `OSError` where that can't be done.
    """
    host, _, port = address.rpartition(":")
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, where in dict.fromkeys(found):
            sockets.append(socket.create_server(where[:2], family=family, backlog=BACKLOG))
    except OSError as error:
        for each in sockets:
            each.close()
        raise explain_listen_error(address, error) from error
    return sockets


def explain_listen_error(address: str, error: OSError) -> OSError:
    """Return *error*, which kept us from listening there, with the *address* in what it says."""
    number = error.errno or 0
    return OSError(number, f"{address}: {os.strerror(number) if number > 0 else error.strerror}")


def _format_url(address: str, sockets: Sequence[socket.socket], *, secure: bool = False) -> str:
    return make_url(address.rpartition(":")[0], sockets[0].getsockname()[1], secure=secure)


def make_url(host: str, port: int, *, secure: bool = False) -> str:
    """Return the URL of what listens there."""
    return f"{'https' if secure else 'http'}://{host}:{port}"
