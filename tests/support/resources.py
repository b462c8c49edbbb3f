"""A gateway of resources over process memory, an upstream that says what it is told to, and a clock held by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from proxy.auth.token_acceptance import TokenAcceptance
from proxy.caching.background import BudgetSaver
from proxy.core.freshness import TrustPeriod
from proxy.core.messages import Fields, Request, Response, StreamedResponse, Upstream
from proxy.core.partition import Partition, Partitioner, Principal
from proxy.core.routes import Forward
from proxy.http.stored_response import FreshnessPolicy
from proxy.observability.logging import Telemetry
from proxy.resources.fetcher import ResourceFetcher
from proxy.resources.request import ResourceRequest, parse_resource_request
from proxy.resources.routes import IMAGES, ResourceRoute, ResourceRoutes
from proxy.resources.service import ResourceResult, ResourceService
from proxy.storage.memory import MemoryStore
from proxy.upstream.forward import Forwarder
from tests.support.listings import SECRET, Hand

MOST_BYTES = 1000
IMAGE = b'{"id":"a","status":"active"}'
TTL = FreshnessPolicy(ttl_s=60.0, stale_while_revalidate_s=10.0, stale_if_error_s=100.0)
ROUTES = ResourceRoutes(
    (
        ResourceRoute(IMAGES, TTL, transient_ttl_s=2.0),
        ResourceRoute("/own/*", FreshnessPolicy()),
        ResourceRoute("/public/*", TTL, is_public=True),
        ResourceRoute("/vary/*", FreshnessPolicy(), is_public=True, by_vary=True),
        ResourceRoute("/mine/*", FreshnessPolicy(), by_vary=True),
        ResourceRoute("/json/*", TTL, requires_json=True),
    )
)


def says(*lines: tuple[str, str], body: bytes = IMAGE, status: int = 200) -> Response:
    """Return an answer of the upstream's."""
    return Response(status, Fields(lines), body)


@dataclass
class Telling:
    """Answers what the *script* says next, then *usual*; while the *gate* is shut answers wait.

    A *hanging* one never comes to the end of a body.
    """

    usual: Response = field(default_factory=says)
    script: list[Response | Exception] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    hanging: bool = False

    async def fetch(self, request: Request) -> Response:
        """Fetch nothing: resources are streamed until it is clear that they are short."""
        raise AssertionError(request)

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[StreamedResponse]:
        """Give the next answer, in chunks of 100 bytes."""
        self.requests.append(request)
        self.asked.set()
        await self.gate.wait()
        said = self.script.pop(0) if self.script else self.usual
        if isinstance(said, Exception):
            raise said
        yield StreamedResponse(said.status, said.reason, said.fields, self._chunks(said.body))

    def last(self, name: str) -> list[str]:
        """Return what the last request had for a field."""
        return self.requests[-1].fields.get_all(name)

    async def _chunks(self, body: bytes) -> AsyncIterator[bytes]:
        for at in range(0, len(body), 100):
            yield body[at : at + 100]
        if self.hanging:
            await asyncio.Event().wait()


class Resources:
    """Everything that a gateway of resources stands in.

    Tokens are believed for *verdict_ttl_s*, a body may take *within_s*. The upstream is `Telling` unless it is given.
    """

    def __init__(self, verdict_ttl_s: float = 1e9, within_s: float = 30.0, *, upstream: Upstream | None = None) -> None:
        self.upstream = Telling()
        self.upstream.gate.set()
        self.hand = Hand()
        self.store = MemoryStore(1 << 24)
        self.partitioner = Partitioner(SECRET)
        telemetry = Telemetry()
        forwarder = Forwarder(upstream or self.upstream, telemetry=telemetry, clock=self.hand)
        fetcher = ResourceFetcher(
            forwarder, self.store, max_bytes=MOST_BYTES, time_limit_s=within_s, telemetry=telemetry, clock=self.hand
        )
        credentials = TokenAcceptance(self.store, trust=TrustPeriod(verdict_ttl_s), clock=self.hand)
        self.low = False
        self.gateway = ResourceService(
            fetcher,
            credentials,
            negative_s=5.0,
            coded_bytes=1 << 20,
            clock=self.hand,
            budget_saver=BudgetSaver(is_low=lambda _: self.low),
        )

    def ask(
        self, target: str = "/v2/images/a", *, method: str = "GET", token: str = "alpha", **fields: str
    ) -> ResourceRequest | Forward:
        """Return what a request asks for, or why it is forwarded."""
        lines = [("X-Auth-Token", token), *((name.replace("_", "-"), value) for name, value in fields.items())]
        request = Request(method, target, Fields(lines), "request-id")
        route = ROUTES.find(request.path)
        assert route is not None
        partition = self.partitioner.from_fields(request.fields)
        who = Principal(partition, partition) if isinstance(partition, Partition) else partition
        return parse_resource_request(request, route, self.partitioner, who)

    async def got(self, target: str = "/v2/images/a", **named: str) -> ResourceResult | Forward:
        """Return the answer to a request, or why it is forwarded, bounded in time."""
        ask = self.ask(target, **named)
        assert isinstance(ask, ResourceRequest), ask
        async with asyncio.timeout(60):
            return await self.gateway.answer(ask)

    async def get(self, target: str = "/v2/images/a", **named: str) -> ResourceResult:
        """Return the answer to a request that has one here."""
        got = await self.got(target, **named)
        assert isinstance(got, ResourceResult), got
        return got

    async def crowd(self, asking: Iterable[Coroutine[None, None, ResourceResult]]) -> list[ResourceResult]:
        """Return what they get who all ask before the upstream answers the first of them."""
        self.upstream.gate.clear()
        self.upstream.asked.clear()
        tasks = [asyncio.create_task(each) for each in asking]
        await self.upstream.asked.wait()
        await asyncio.sleep(0)
        self.upstream.gate.set()
        return await asyncio.gather(*tasks)

    async def settled(self) -> None:
        """Return when nothing is done in the background any more."""
        async with asyncio.timeout(60):
            while others := asyncio.all_tasks() - {asyncio.current_task()}:
                await asyncio.wait(others)
