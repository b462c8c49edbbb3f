"""A front before a reference listing, over real sockets, with a clock held by hand."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from proxy.auth.authenticators import TokenAuthenticator
from proxy.core.cache_key import CacheKey
from proxy.core.freshness import Lifetimes, TrustPeriod
from proxy.core.messages import Fields, Request, StreamedResponse
from proxy.core.partition import NotShareable, Partitioner, Principal
from proxy.gateway.gateway import ClientConnection, Gateway, GatewayResponse
from proxy.listing.fetcher import SpanFetcher
from proxy.listing.page_cache import PageRenderer
from proxy.listing.prefetch import FetchSizing
from proxy.listing.rendering import LinkStyle
from proxy.listing.request import LifetimeRules, ListRules, PageSizes
from proxy.listing.service import ListingService
from proxy.observability.logging import Telemetry
from proxy.server.connection import Server
from proxy.server.fast_path import ReplayCache
from proxy.server.handler import ClientRequestHandler
from proxy.storage.memory import MemoryStore
from proxy.upstream.forward import Forwarder
from tests.support.listings import ROWS, SECRET, Hand, ScriptedUpstream
from tests.support.model import Model

LIFETIME_S = 60.0


class Upstream(ScriptedUpstream):
    """The reference listing, where writes succeed too, and everything else is refused with *status*."""

    status = 204

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[StreamedResponse]:
        """Answer with the status alone."""

        async def nothing() -> AsyncIterator[bytes]:
            return
            yield

        async for _ in request.body or nothing():
            pass
        yield StreamedResponse(self.status, None, Fields([("Content-Length", "0")]), nothing())


class Watched(Gateway):
    """A gateway that counts what came to it: requests on their whole way."""

    whole = 0

    @asynccontextmanager
    async def answer(self, request: Request, arrival: ClientConnection) -> AsyncIterator[GatewayResponse]:
        self.whole += 1
        async with super().answer(request, arrival) as answer:
            yield answer


class Noting(TokenAuthenticator):
    """A door that notes the names of the fields it was shown."""

    def __init__(self, partitioner: Partitioner) -> None:
        super().__init__(partitioner)
        self.shown: set[str] = set()

    async def authenticate(self, request: Request) -> Principal | NotShareable:
        self.shown |= {name.lower() for name, _ in request.fields}
        return await super().authenticate(request)


class Used(MemoryStore):
    """A store that counts what it is told of use."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(max_bytes)
        self.uses = 0

    def note_use(self, key: CacheKey, markers: Sequence[str]) -> None:
        self.uses += 1
        super().note_use(key, markers)


@dataclass(slots=True)
class Got:
    """One answer, as it came."""

    status: int
    fields: dict[str, str]
    body: bytes
    date: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        """Take the date apart: the adapter has the machine's clock, the memory that of the test."""
        self.date = self.fields.pop("Date", "")


@dataclass
class Line:
    """One connection; *world* is what stands behind it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, request: bytes) -> None:
        """Send bytes as they are."""
        self.writer.write(request)
        await self.writer.drain()

    async def answer(self, *, bodiless: bool = False) -> Got:
        """Return the next answer."""
        async with asyncio.timeout(60):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.rstrip().split("\r\n")
            fields = dict(line.split(": ", 1) for line in lines)
            length = 0 if bodiless else int(fields.get("Content-Length", 0))
            return Got(int(first.split()[1]), fields, await self.reader.readexactly(length))

    async def get(self, **fields: str) -> Got:
        """Return the answer to the request that `head` makes of *fields*."""
        await self.send(head(**fields))
        return await self.answer()

    def reset(self) -> None:
        """Hang up, so that the other end can't take it for the end of this side alone."""
        connected = self.writer.get_extra_info("socket")
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def ended(self) -> bool:
        """Whether the other end closes the connection."""
        async with asyncio.timeout(60):
            return await self.reader.read() == b""


def head(
    method: str = "GET", target: str = "/v2/images?limit=3", version: str = "1.1", token: str = "alpha", **fields: str
) -> bytes:
    """Return a request's head; *fields* are further lines, `_` for `-`."""
    lines = {"Host": "proxy.test", "X-Auth-Token": token, **fields}
    told = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())
    return f"{method} {target} HTTP/{version}\r\n{told}\r\n".encode()


@dataclass
class World:
    """A front on a free port, and all that stands behind it."""

    upstream: Upstream
    store: Used
    gateway: Watched
    door: Noting
    memo: ReplayCache
    telemetry: Telemetry
    hand: Hand
    runner: web.ServerRunner
    server: Server
    port: int
    lines: list[Line] = field(default_factory=list)

    async def line(self) -> Line:
        """Return a new connection."""
        made = Line(*await asyncio.open_connection("127.0.0.1", self.port))
        self.lines.append(made)
        return made

    async def warm(self, **fields: str) -> Line:
        """Return a connection on which one request was answered by the upstream, and then once from the store."""
        line = await self.line()
        await line.get(**fields)
        self.hand.now += 0.25
        await line.get(**fields)
        self.gateway.whole = 0
        self.upstream.forget()
        return line

    def counted(self, having: str = "") -> float:
        """Return how many requests the metrics know of, *having* such a label."""
        lines = self.telemetry.render_metrics().decode().splitlines()
        totals = [line for line in lines if line.startswith("ims_proxy_requests_total{") and having in line]
        return sum(float(line.rpartition(" ")[2]) for line in totals)


@asynccontextmanager
async def a_world(*, verdict_ttl_s: float = 1e9) -> AsyncIterator[World]:
    """Give a front before an upstream with one listing."""
    upstream, store, telemetry, hand = Upstream(Model(ROWS)), Used(1 << 24), Telemetry(), Hand()
    listings = ListingService(
        SpanFetcher(upstream, store, telemetry=telemetry, clock=hand, rng=lambda: 0.0),
        store,
        sizing=FetchSizing(1000, enabled=False),
        trust=TrustPeriod(verdict_ttl_s),
        negative_s=5.0,
        clock=hand,
    )
    door = Noting(Partitioner(SECRET))
    renderer = PageRenderer(1 << 20)
    gateway = Watched(
        listings,
        Forwarder(upstream, telemetry=telemetry, clock=hand),
        renderer,
        list_rules=ListRules(Partitioner(SECRET), PageSizes(), LifetimeRules(Lifetimes(LIFETIME_S))),
        link_style=LinkStyle(),
        store=store,
        clock=hand,
        authenticator=door,
    )
    memo = ReplayCache(max_bytes=1 << 20, current_epoch=lambda: listings.epoch, clock=hand)
    server = ClientRequestHandler(gateway, telemetry, replay_cache=memo).make_server(max_connections=100)
    runner = web.ServerRunner(server, shutdown_timeout=60)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    world = World(upstream, store, gateway, door, memo, telemetry, hand, runner, server, runner.addresses[0][1])
    try:
        yield world
    finally:
        for line in world.lines:
            line.writer.close()
        await runner.cleanup()
        await listings.close()
