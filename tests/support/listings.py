"""A gateway over process memory, an upstream that is a reference listing, and a clock held by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

import pytest

from proxy.caching.background import BudgetSaver
from proxy.core.freshness import Lifetimes, TrustPeriod
from proxy.core.messages import Fields, Request, Response, StreamedResponse
from proxy.core.partition import Partitioner
from proxy.errors import UpstreamTimeoutError
from proxy.listing.fetcher import SpanFetcher
from proxy.listing.prefetch import FetchSizing
from proxy.listing.request import LifetimeRules, ListRequest, ListRules, PageSizes, parse_list_request
from proxy.listing.service import ListingService, ListResult
from proxy.observability.logging import Telemetry
from proxy.storage.memory import MemoryStore
from tests.support.bounded import bounded
from tests.support.model import Model, body, ids_of

__all__ = ["bounded"]

ROWS = tuple(f"i{number:03}" for number in range(120))
SECRET = b"sixteen bytes or more"


class ScriptedUpstream:
    """Answers lists from *model*, or what the *script* says next; *targets* are what it was asked, in order.

    While *gate* is shut answers wait; *asked* is set with each request that came.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.targets: list[str] = []
        self.requests: list[Request] = []
        self.script: list[Response | Exception] = []
        self.failing: Response | Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = asyncio.Event()

    async def fetch(self, request: Request) -> Response:
        """Return the next answer."""
        self.targets.append(request.target)
        self.requests.append(request)
        self.asked.set()
        await self.gate.wait()
        said = self.script.pop(0) if self.script else self.failing
        if isinstance(said, Exception):
            raise said
        return said or self.list_for(request.target)

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[StreamedResponse]:
        """Stream nothing: lists are fetched whole."""
        raise AssertionError(request)
        yield

    def forget(self) -> None:
        """Begin to record anew."""
        self.targets.clear()
        self.requests.clear()
        self.asked.clear()

    def list_for(self, target: str) -> Response:
        """Return the page of the model that *target* asks for."""
        parameters = parse_qs(urlsplit(target).query)
        (limit,), (after,) = parameters.get("limit", ["25"]), parameters.get("marker", [""])
        if after and after not in self.model.rows:
            return Response(400, Fields([("Content-Type", "text/plain")]), b"no such marker")
        return Response(200, Fields(), body(self.model.cut(after, int(limit))))


class Hand:
    """A clock that moves when it is told to; *now* is epoch seconds."""

    def __init__(self) -> None:
        self.now = 1_767_225_600.0

    def __call__(self) -> float:
        return self.now


@dataclass
class World:
    """Everything a listing gateway stands in."""

    upstream: ScriptedUpstream
    store: MemoryStore
    gateway: ListingService
    asking: ListRules
    hand: Hand

    @property
    def now(self) -> float:
        """What the clock says."""
        return self.hand.now

    def passes(self, seconds: float) -> None:
        """Let so much time pass."""
        self.hand.now += seconds

    def ask(self, query: str = "", *, token: str = "alpha", path: str = "/v2/images", **fields: str) -> ListRequest:
        """Return what a request for *query* asks for."""
        lines = [("X-Auth-Token", token), *((name.replace("_", "-"), value) for name, value in fields.items())]
        target = f"{path}?{query}" if query else path
        made = parse_list_request(Request("GET", target, Fields(lines), "request-id"), self.asking)
        assert isinstance(made, ListRequest), made
        return made

    async def get(self, query: str = "", **fields: str) -> ListResult:
        """Return the answer to *query*, bounded in time."""
        async with asyncio.timeout(60):
            return await self.gateway.answer(self.ask(query, **fields))

    async def ids(self, query: str = "", **fields: str) -> tuple[str, ...]:
        """Return the ids of the page for *query*."""
        got = await self.get(query, **fields)
        assert got.page is not None, got
        return ids_of(got.page)

    async def settled(self) -> None:
        """Return when the gateway does nothing in the background any more."""
        async with asyncio.timeout(60):
            while others := asyncio.all_tasks() - {asyncio.current_task()}:
                await asyncio.wait(others)


MakeWorld = Callable[..., World]


@pytest.fixture
async def make_world() -> AsyncIterator[MakeWorld]:
    """Make a world; all of them end with the test."""
    worlds: list[World] = []

    def made(
        model: Model | None = None,
        *,
        upstream: ScriptedUpstream | None = None,
        lifetimes: Lifetimes | None = None,
        readahead: bool = False,
        verdict_ttl_s: float = 1e9,
        negative_s: float = 5.0,
        longest: int = 1000,
        thrift: BudgetSaver | None = None,
    ) -> World:
        lifetimes = lifetimes or Lifetimes(60.0)
        upstream = upstream or ScriptedUpstream(model or Model(ROWS))
        hand = Hand()
        store = MemoryStore(1 << 24)

        fetcher = SpanFetcher(upstream, store, telemetry=Telemetry(), clock=hand, rng=lambda: 0.0)
        gateway = ListingService(
            fetcher,
            store,
            sizing=FetchSizing(longest, enabled=readahead),
            trust=TrustPeriod(verdict_ttl_s),
            negative_s=negative_s,
            clock=hand,
            budget_saver=thrift,
        )
        asking = ListRules(Partitioner(SECRET), PageSizes(longest), LifetimeRules(lifetimes))
        world = World(upstream, store, gateway, asking, hand)
        worlds.append(world)
        return world

    yield made
    for world in worlds:
        world.upstream.gate.set()
        await world.gateway.close()


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    """A world with readahead off and no stale windows."""
    return make_world()


def unreachable() -> UpstreamTimeoutError:
    """Return the error of an upstream that does not answer."""
    return UpstreamTimeoutError("upstream: no response within 30s")
