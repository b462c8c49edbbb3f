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
from proxy.admin.app import Runner
from proxy.config.model import Settings
from proxy.observability.logging import log_event
from proxy.runtime.app import StopSignals, WorkerContext, make_url, open_sockets, running
from proxy.runtime.supervision import Child, Supervisor
from proxy.server.acceptor import ConnectionTable

_STOP_S = 10.0  # what an operators' process may take to stop, half of it for what it is asked


def run_supervised(settings: Settings) -> signal.Signals | None:
    """Run workers until SIGTERM, SIGINT or SIGHUP, and return which it was, None where one can't be kept running.

    Raises `OSError` where an address can't be listened on.
    """
    count = settings.server.workers
    with ExitStack() as stack:
        callers, operators, *each = (
            [stack.enter_context(bound) for bound in open_sockets(address)]
            for address in (settings.server.listen, settings.admin.listen, *["127.0.0.1:0"] * count)
        )
        part, secret = worker_settings(settings), secrets.token_bytes(32)
        connections = ConnectionTable(count)
        workers = [
            Child(
                f"worker {number}",
                partial(_serve, part, WorkerContext(callers, inside, secret, connections, number - 1)),
                stop_s=settings.server.drain_delay_s + settings.server.drain_s,
            )
            for number, inside in enumerate(each, 1)
        ]
        urls = [make_url("127.0.0.1", inside[0].getsockname()[1]) for inside in each]
        admin = Child(
            "operators", partial(_administer, settings, callers, operators, urls), stop_s=_STOP_S, last_restart=True
        )
        # The workers have the sockets too, and accept during `server.drain_delay_s`. Behind that nobody may be accepted
        # whom no worker will answer, so the supervisor closes its own.
        return Supervisor([*workers, admin], stopping=lambda: _close(callers)).run()


def worker_settings(settings: Settings) -> Settings:
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


def _serve(settings: Settings, place: WorkerContext, life: int) -> None:
    """Be a worker until a signal, or until the supervisor is gone."""

    async def serving() -> None:
        signals = StopSignals(life)
        async with running(settings, place, skip_delay=signals.skip_delay):
            await signals.first

    uvloop.run(serving())


def _administer(
    settings: Settings,
    callers: Sequence[socket.socket],
    operators: Sequence[socket.socket],
    urls: Sequence[str],
    life: int,
) -> None:
    """Answer operators until SIGINT, or until the supervisor is gone. After SIGTERM `/readyz` says 503.

    The supervisor sends SIGTERM when the workers begin to drain, and SIGINT when they have ended.
    """
    where = tuple(
        make_url(address.rpartition(":")[0], bound[0].getsockname()[1], secure=secure)
        for address, bound, secure in (
            (settings.server.listen, callers, settings.server.tls_cert is not None),
            (settings.admin.listen, operators, False),
        )
    )
    token = settings.admin.token.get_secret_value() if settings.admin.token else None
    _close(callers)

    async def administering() -> None:
        signals = StopSignals(life)
        async with aiohttp.ClientSession() as session:
            workers = together.WorkerPool(urls, session)
            application = together.application(workers, token=token, is_stopping=signals.first.done)
            runner = Runner(application, shutdown_timeout=_STOP_S / 2)
            await runner.setup()
            for each in operators:
                await web.SockSite(runner, each).start()
            telling = asyncio.create_task(_announce_when_ready(workers, where, settings.upstream.url))
            await signals.first
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
            with suppress(TimeoutError):  # SIGTERM may have come from elsewhere, and the supervisor goes on
                async with asyncio.timeout(settings.server.drain_delay_s + settings.server.drain_s + _STOP_S):
                    await signals.skip_delay.wait()
            await runner.cleanup()

    uvloop.run(administering())


async def _announce_when_ready(workers: together.WorkerPool, where: tuple[str, ...], upstream: str) -> None:
    await together.are_started(workers)
    callers, operators = where
    log_event("listening", callers=callers, operators=operators, upstream=upstream)


def _close(sockets: Sequence[socket.socket]) -> None:
    for each in sockets:
        each.close()
