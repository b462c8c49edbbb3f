"""`server.workers`: as many processes, one port for callers, one for operators.

All accept from the same listening socket, each its share. Each is a replica like those on other machines: what they
share is in Redis.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
import socket
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial

import aiohttp
import uvloop
from aiohttp import web

from proxy.admin import aggregate as together
from proxy.admin.app import AdminRunner
from proxy.config.model import Settings
from proxy.observability.logging import log_event
from proxy.runtime.app import StopSignals, WorkerContext, make_url, open_listening_sockets, run_proxy
from proxy.runtime.supervision import ChildProcess, Supervisor
from proxy.server.acceptor import ConnectionTable

_ADMIN_STOP_TIMEOUT_S = 10.0  # what an operators' process may take to stop, half of it for what it is asked


def run_workers(settings: Settings) -> signal.Signals | None:
    """Run workers until SIGTERM, SIGINT or SIGHUP, and return which it was, None where one can't be kept running.

    Raises `OSError` where an address can't be listened on.
    """
    count = settings.server.workers
    with ExitStack() as stack:
        client_sockets, admin_sockets, *each = (
            [stack.enter_context(bound) for bound in open_listening_sockets(address)]
            for address in (settings.server.listen, settings.admin.listen, *["127.0.0.1:0"] * count)
        )
        per_worker_settings, secret = make_worker_settings(settings), secrets.token_bytes(32)
        connections = ConnectionTable(count)
        workers = [
            ChildProcess(
                f"worker {number}",
                partial(
                    _run_worker,
                    per_worker_settings,
                    WorkerContext(client_sockets, inside, secret, connections, number - 1),
                ),
                stop_timeout_s=settings.server.drain_delay_s + settings.server.drain_s,
            )
            for number, inside in enumerate(each, 1)
        ]
        urls = [make_url("127.0.0.1", worker_admin_sockets[0].getsockname()[1]) for worker_admin_sockets in each]
        admin = ChildProcess(
            "operators",
            partial(_run_admin_server, settings, client_sockets, admin_sockets, urls),
            stop_timeout_s=_ADMIN_STOP_TIMEOUT_S,
            stops_last=True,
        )
        # The workers have the sockets too, and accept during `server.drain_delay_s`. Behind that nobody may be accepted
        # whom no worker will answer, so the supervisor closes its own.
        return Supervisor([*workers, admin], on_stopping=lambda: _close_sockets(client_sockets)).run()


def make_worker_settings(settings: Settings) -> Settings:
    """Return the settings of one worker: its part of what all of them together may do at once."""
    count = settings.server.workers
    server = {"max_concurrent": max(1, settings.server.max_concurrent // count)}
    upstream = {"max_connections": max(1, settings.upstream.max_connections // count)}
    return settings.model_copy(
        update={
            "server": settings.server.model_copy(update=server),
            "upstream": settings.upstream.model_copy(update=upstream),
        }
    )


def _run_worker(settings: Settings, worker_context: WorkerContext, life_pipe: int) -> None:
    """Be a worker until a signal, or until the supervisor is gone."""

    async def serve_until_signal() -> None:
        signals = StopSignals(life_pipe)
        async with run_proxy(settings, worker_context, skip_delay=signals.skip_delay):
            await signals.first_signal

    uvloop.run(serve_until_signal())


def _run_admin_server(
    settings: Settings,
    client_sockets: Sequence[socket.socket],
    admin_sockets: Sequence[socket.socket],
    worker_urls: Sequence[str],
    life_pipe: int,
) -> None:
    """Answer operators until SIGINT, or until the supervisor is gone. After SIGTERM `/readyz` says 503.

    The supervisor sends SIGTERM when the workers begin to drain, and SIGINT when they have ended.
    """
    public_urls = tuple(
        make_url(address.rpartition(":")[0], bound[0].getsockname()[1], secure=secure)
        for address, bound, secure in (
            (settings.server.listen, client_sockets, settings.server.tls_cert is not None),
            (settings.admin.listen, admin_sockets, False),
        )
    )
    token = settings.admin.token.get_secret_value() if settings.admin.token else None
    _close_sockets(client_sockets)

    async def serve_until_stopped() -> None:
        signals = StopSignals(life_pipe)
        async with aiohttp.ClientSession() as session:
            workers = together.WorkerPool(worker_urls, session)
            application = together.make_aggregate_app(workers, token=token, is_stopping=signals.first_signal.done)
            runner = AdminRunner(application, shutdown_timeout=_ADMIN_STOP_TIMEOUT_S / 2)
            await runner.setup()
            for each in admin_sockets:
                await web.SockSite(runner, each).start()
            announcement = asyncio.create_task(_announce_when_ready(workers, public_urls, settings.upstream.url))
            await signals.first_signal
            announcement.cancel()
            await asyncio.gather(announcement, return_exceptions=True)
            with suppress(TimeoutError):  # SIGTERM may have come from elsewhere, and the supervisor goes on
                async with asyncio.timeout(
                    settings.server.drain_delay_s + settings.server.drain_s + _ADMIN_STOP_TIMEOUT_S
                ):
                    await signals.skip_delay.wait()
            await runner.cleanup()

    uvloop.run(serve_until_stopped())


async def _announce_when_ready(workers: together.WorkerPool, public_urls: tuple[str, ...], upstream_url: str) -> None:
    await together.wait_until_ready(workers)
    client_url, admin_url = public_urls
    log_event("listening", client_url=client_url, admin_url=admin_url, upstream_url=upstream_url)


def _close_sockets(sockets: Sequence[socket.socket]) -> None:
    for each in sockets:
        each.close()
