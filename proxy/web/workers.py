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
from contextlib import ExitStack
from functools import partial

import aiohttp
import uvloop
from aiohttp import web

from proxy.config import Settings
from proxy.supervision import Child, Supervisor
from proxy.telemetry import event
from proxy.web import together
from proxy.web.app import Place, not_listened, running, stop_signal, url_of
from proxy.web.balanced_site import ConnectionTable
from proxy.web.operators import Runner

_BACKLOG = 1024
_STOP_S = 10.0  # what an operators' process may take to stop, half of it for what it is asked


def supervised(settings: Settings) -> signal.Signals | None:
    """Run workers until SIGTERM, SIGINT or SIGHUP, and return which it was, None where one can't be kept running.

    Raises `OSError` where an address can't be listened on.
    """
    count = settings.server.workers
    with ExitStack() as stack:
        callers, operators, *each = (
            [stack.enter_context(bound) for bound in listening(address)]
            for address in (settings.server.listen, settings.admin.listen, *["127.0.0.1:0"] * count)
        )
        part, secret = part_of(settings), secrets.token_bytes(32)
        connections = ConnectionTable(count)
        workers = [
            Child(
                f"worker {number}",
                partial(_serve, part, Place(callers, inside, secret, connections, number - 1)),
                stop_s=settings.server.drain_s,
            )
            for number, inside in enumerate(each, 1)
        ]
        urls = [url_of("127.0.0.1", inside[0].getsockname()[1]) for inside in each]
        admin = Child("operators", partial(_administer, settings, callers, operators, urls), stop_s=_STOP_S, last=True)
        # From then on nobody is accepted whom no worker will answer.
        return Supervisor([*workers, admin], stopping=lambda: _close(callers)).run()


def part_of(settings: Settings) -> Settings:
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


def listening(address: str) -> list[socket.socket]:
    """Return sockets that listen at *address*, HOST:PORT, on each address that its host has; port 0 is a free one."""
    host, _, port = address.rpartition(":")
    bound: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, where in dict.fromkeys(found):
            bound.append(socket.create_server(where[:2], family=family, backlog=_BACKLOG))
    except OSError as error:
        _close(bound)
        raise not_listened(address, error) from error
    return bound


def _serve(settings: Settings, place: Place, life: int) -> None:
    """Be a worker until a signal, or until the supervisor is gone."""

    async def serving() -> None:
        stopped = stop_signal(life)
        async with running(settings, place):
            await stopped

    uvloop.run(serving())


def _administer(
    settings: Settings,
    callers: Sequence[socket.socket],
    operators: Sequence[socket.socket],
    urls: Sequence[str],
    life: int,
) -> None:
    """Answer operators until a signal, or until the supervisor is gone."""
    where = tuple(
        url_of(address.rpartition(":")[0], bound[0].getsockname()[1], secure=secure)
        for address, bound, secure in (
            (settings.server.listen, callers, settings.server.tls_cert is not None),
            (settings.admin.listen, operators, False),
        )
    )
    token = settings.admin.token.get_secret_value() if settings.admin.token else None
    _close(callers)

    async def administering() -> None:
        stopped = stop_signal(life)
        async with aiohttp.ClientSession() as session:
            workers = together.Workers(urls, session)
            runner = Runner(together.application(workers, token=token), shutdown_timeout=_STOP_S / 2)
            await runner.setup()
            for each in operators:
                await web.SockSite(runner, each).start()
            telling = asyncio.create_task(_told_when_ready(workers, where, settings.upstream.url))
            await stopped
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
            await runner.cleanup()

    uvloop.run(administering())


async def _told_when_ready(workers: together.Workers, where: tuple[str, ...], upstream: str) -> None:
    await together.started(workers)
    callers, operators = where
    event("listening", callers=callers, operators=operators, upstream=upstream)


def _close(sockets: Sequence[socket.socket]) -> None:
    for each in sockets:
        each.close()
