"""A proxy from its first listening to its last answer: what it is made of is put together in `proxy.web.parts`."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web

from proxy import tls
from proxy.config import ServerSection, Settings
from proxy.core.values import immutable
from proxy.descriptors import left_to_callers, raised
from proxy.errors import StoreUnavailableError
from proxy.explain import assumed_explanation
from proxy.stores.base import SpanStore
from proxy.supervision import ending_signals
from proxy.telemetry import Telemetry, event
from proxy.web import admin
from proxy.web.balanced_site import BalancedSite, ConnectionTable, WorkerLoad
from proxy.web.front import Front
from proxy.web.memo import HeadMemo
from proxy.web.operators import Runner
from proxy.web.parts import Parts, put_together
from proxy.web.statistics import Statistics

_QUIET_S: Final = 0.25  # in which a request that was on its way when the proxy was told to stop still comes
_REPEATED_SHARE: Final = 0.125  # of `store.max_bytes`: answers repeated as they are, mostly rendered pages
_HEADS_BYTES: Final = 4 << 20  # where that is 0, for heads without bodies


@immutable
class Running:
    """A proxy that runs: where callers and operators come."""

    url: str
    admin_url: str


@immutable
class Place:
    """What the supervisor gives a worker: sockets that listen for *callers* and for *operators*, and a *secret*.

    Partitions are made with the *secret*, the same for all workers, where no other is configured or shared. In
    *connections* the workers see how many connections each has; this one has the given *number*, from 0.
    """

    callers: Sequence[socket.socket]
    operators: Sequence[socket.socket]
    secret: bytes
    connections: ConnectionTable
    number: int


@asynccontextmanager
async def running(settings: Settings, place: Place | None = None) -> AsyncIterator[Running]:
    """Run a proxy for as long as the context lasts, on its own or as a worker at its *place*; on leaving it drains.

    Raises `OSError` where an address can't be listened on.
    """
    telemetry = Telemetry(access_log=settings.log.access)
    parts = await put_together(settings, telemetry, place.secret if place else secrets.token_bytes(32))
    listeners = _Listeners(settings, parts, place)
    try:
        yield await listeners.start()
    finally:
        await listeners.stop()


class _Listeners:
    """What listens for callers and for operators, before *parts*; on its own or as a worker at its *place*."""

    def __init__(self, settings: Settings, parts: Parts, place: Place | None) -> None:
        self._settings = settings
        self._parts = parts
        self._place = place
        self._memo = _memo(settings, parts)
        # Where callers' requests are counted, each has to come as far as the gateway.
        front = Front(parts.answers.gateway, parts.telemetry, memo=None if parts.admission.counts else self._memo)
        self._server = front.server(most=left_to_callers(raised(), upstream=settings.upstream.max_connections))
        self._callers = web.ServerRunner(self._server, shutdown_timeout=settings.server.drain_s)
        self._draining = asyncio.Event()
        self._operators = Runner(_operating(settings, parts, self._draining))
        self._started = False

    async def start(self) -> Running:
        """Let callers and operators in, and return where they come. Raises `OSError` where they can't."""
        settings, place = self._settings, self._place
        await self._parts.shield.start()
        await self._operators.setup()
        await self._callers.setup()
        if place:
            url = await self._accept_fairly(place, _serving(settings.server))
        else:
            url = await _listening(self._callers, settings.server.listen, (), _serving(settings.server))
        # Only now: a client that reads here that the proxy is ready may call it at once.
        admin_url = await _listening(self._operators, settings.admin.listen, place.operators if place else ())
        self._started = True
        self._parts.telemetry.ready.set(1)
        event(
            "worker-listening" if place else "listening",
            callers=url,
            operators=admin_url,
            upstream=settings.upstream.url,
        )
        return Running(url, admin_url)

    async def _accept_fairly(self, place: Place, context: ssl.SSLContext | None) -> str:
        """Accept callers' connections side by side with the other workers, and return the URL."""
        load = self._server.load = WorkerLoad(place.connections, place.number)
        for listener in place.callers:
            await BalancedSite(self._callers, self._server, listener, load, ssl_context=context).start()
        host = self._settings.server.listen.rpartition(":")[0]
        return url_of(host, place.callers[0].getsockname()[1], secure=context is not None)

    async def stop(self) -> None:
        """Let nobody new in, finish what is under way, and close the parts; also after a start that failed."""
        drain_s = self._settings.server.drain_s
        self._draining.set()
        self._parts.telemetry.ready.set(0)
        self._memo.close()
        if self._started:
            event("draining", at_most_s=drain_s)
        for site in self._callers.sites:
            await site.stop()
        await self._server.drain(min(_QUIET_S, drain_s))
        await self._callers.cleanup()
        await self._parts.close()
        await self._operators.cleanup()
        if self._started:
            event("stopped")


def _memo(settings: Settings, parts: Parts) -> HeadMemo:
    """Return the memory of answers to repeat, or of their heads alone where process memory keeps no answers."""
    answers_bytes = int(settings.store.max_bytes * _REPEATED_SHARE)
    return HeadMemo(
        max_bytes=answers_bytes or _HEADS_BYTES, epoch=lambda: parts.epoch, clock=time.time, bodies=answers_bytes > 0
    )


async def serve(settings: Settings) -> signal.Signals:
    """Run a proxy until SIGTERM, SIGINT or SIGHUP, and return which it was."""
    stopped = stop_signal()
    async with running(settings):
        return await stopped


def stop_signal(life: int | None = None) -> asyncio.Future[signal.Signals]:
    """Return a future for the first signal that arrives from now on and ends the proxy.

    The end of the pipe *life* counts as SIGTERM.
    """
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[signal.Signals] = loop.create_future()

    def arrived(number: signal.Signals) -> None:
        if not stopped.done():
            stopped.set_result(number)

    for number in ending_signals():
        loop.add_signal_handler(number, arrived, number)
    if life is not None:
        loop.add_reader(life, _died, life, arrived)
    return stopped


def _died(life: int, arrived: Callable[[signal.Signals], None]) -> None:
    asyncio.get_running_loop().remove_reader(life)
    arrived(signal.SIGTERM)


def _operating(settings: Settings, parts: Parts, draining: asyncio.Event) -> web.Application:
    """Return what answers operators; while *draining* is set it says that the proxy is not ready."""
    store = parts.store
    operations = admin.Operations(
        telemetry=parts.telemetry,
        readiness=lambda: _readiness(store, draining),
        purging=parts.answers.gateway.purge,
        stored_bytes=lambda: store.stored_bytes,
        statistics=Statistics(parts.telemetry.registry, store, parts.shield, max_bytes=settings.store.max_bytes),
        explain=lambda target: assumed_explanation(target, settings),
    )
    return admin.application(
        operations, token=settings.admin.token.get_secret_value() if settings.admin.token else None
    )


def _serving(server: ServerSection) -> ssl.SSLContext | None:
    if server.tls_cert is None or server.tls_key is None:
        return None
    return tls.serving((server.tls_cert, server.tls_key), minimum=server.tls_min_version)


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
            raise not_listened(address, error) from error
    return url_of(host, runner.addresses[0][1], secure=context is not None)


def not_listened(address: str, error: OSError) -> OSError:
    """Return *error*, which kept us from listening there, with the *address* in what it says."""
    number = error.errno or 0
    return OSError(number, f"{address}: {os.strerror(number) if number > 0 else error.strerror}")


def url_of(host: str, port: int, *, secure: bool = False) -> str:
    """Return the URL of what listens there."""
    return f"{'https' if secure else 'http'}://{host}:{port}"
