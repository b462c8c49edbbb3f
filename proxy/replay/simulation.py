"""The proxy's own gateway, asked what a log tells, by a clock that only the log moves.

Nothing is decided here: every hit, fetch, readahead and revalidation is the gateway's decision, the same as in service.
What the log can't tell is assumed, and stands in docs/operating.md.

An upstream without a network: it has the listings that the log tells of, and answers the rest as the log says.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Final

import orjson

from proxy.auth.authenticators import TokenAuthenticator
from proxy.config.model import Settings
from proxy.config.policies import make_list_rules, page_sizes
from proxy.core.list_api import CLOUDIMAGES_PATH, IMAGES_PATH
from proxy.core.list_query import ListQuery, parse_list_query
from proxy.core.messages import Fields, Request, Response, StreamedResponse
from proxy.core.partition import NotShareable, Partition, Partitioner, Principal
from proxy.core.routes import classify_path
from proxy.errors import ProxyError
from proxy.gateway.gateway import ClientConnection
from proxy.listing.lookup import ReplayTerms
from proxy.listing.rendering import page_link
from proxy.listing.request import PageSizes
from proxy.observability.logging import Telemetry
from proxy.replay.entries import Entry
from proxy.replay.listings import Name, ObservedListings, is_listed
from proxy.runtime.container import Engines, make_engines
from proxy.storage.memory import MemoryStore

_LISTS: Final = (IMAGES_PATH, CLOUDIMAGES_PATH)
# What was refused for the request's own sake would be refused again; what failed or was throttled was for the moment's.
_REFUSED: Final = frozenset({400, 401, 403, 404})
# An image that is in no way special: it lacks no sort key, and is not about to change.
_IMAGE: Final = {
    "name": "",
    "status": "active",
    "visibility": "public",
    "size": 1,
    "container_format": "bare",
    "disk_format": "raw",
}
_JSON: Final = Fields([("Content-Type", "application/json")])


class RecordedUpstream:
    """An `Upstream`; *total* counts its calls. *entry* is the request under way, *name* the listing it asks for."""

    def __init__(self, listings: ObservedListings, sizes: PageSizes) -> None:
        self._listings = listings
        self._sizes = sizes
        self.total = 0
        self.entry: Entry | None = None
        self.name: Name = ("", "", "")

    async def fetch(self, request: Request) -> Response:
        """See `Upstream.fetch`."""
        self.total += 1
        entry = self.entry
        assert entry is not None
        query = (
            parse_list_query(request.query) if request.method in ("GET", "HEAD") and request.path in _LISTS else None
        )
        if entry.status in _REFUSED:
            return Response(entry.status, _JSON, b"{}")
        if not isinstance(query, ListQuery):
            done = entry.status if entry.status < 500 and entry.status != 429 else 200
            return Response(done, _JSON, b"{}")
        page = self._listings.page(
            (self.name[0], self.name[1], query.canonical),
            query.window.marker,
            self._sizes.row_count(query.window, request.path),
        )
        if page is None:
            return Response(400, _JSON, b"{}")
        ids, goes_on = page
        told: dict[str, object] = {"images": [{"id": each, **_IMAGE} for each in ids]}
        if goes_on and request.path != CLOUDIMAGES_PATH:
            told["next"] = f"{request.path}?marker={ids[-1]}"
        return Response(200, _JSON, orjson.dumps(told))

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[StreamedResponse]:
        """See `Upstream.stream`."""
        answer = await self.fetch(request)

        async def chunks() -> AsyncIterator[bytes]:
            yield answer.body

        yield StreamedResponse(answer.status, answer.reason, answer.fields, chunks())


_SECRET: Final = b"nothing is kept of a replay"
_DICE: Final = 0.5  # lifetimes vary by up to a tenth; this is the mean
_REMEMBERED: Final = 100_000
_TURNS: Final = 10_000


class AssumedAuthenticator(TokenAuthenticator):
    """Who a log calls by one name shares what is stored; *vouched* says that IAM or the proxy would vouch for it."""

    def __init__(self, partitioner: Partitioner, *, vouched: bool) -> None:
        super().__init__(partitioner)
        self._vouched = vouched

    async def _authenticate_token(self, request: Request, partition: Partition) -> Principal | NotShareable:  # noqa: ARG002 - see TokenDoor
        return Principal(partition, partition, is_verified=self._vouched, may_share_public=self._vouched)


@dataclass(slots=True)
class Outcome:
    """What a listing's requests came to, or those of a route that is no list."""

    requests: int = 0
    hits: int = 0
    calls: int = 0


@dataclass(slots=True)
class ReplayResult:
    """What the whole log came to, by listing; *busiest* are the most calls in a minute, without and with the proxy."""

    outcomes: dict[Name, Outcome] = field(default_factory=dict)
    busiest: tuple[int, int] = (0, 0)


class Simulation:
    """Asks one gateway, of a proxy with *settings*, what it would have been asked. *listings* have been learnt."""

    def __init__(self, settings: Settings, listings: ObservedListings) -> None:
        self._sharer = make_sharer(settings)
        self._listings = listings
        self._upstream = RecordedUpstream(listings, page_sizes(settings))
        self._now = 0.0
        self._given: dict[tuple[str, str], tuple[ReplayTerms, int | None]] = {}
        self._outcomes: dict[Name, Outcome] = {}
        self._minutes: dict[int, list[int]] = {}
        asks = make_list_rules(settings, _SECRET)
        self._answering: Engines = make_engines(
            settings,
            self._upstream,
            MemoryStore(settings.store.max_bytes),
            asks,
            telemetry=Telemetry(),
            clock=lambda: self._now,
            rng=lambda: _DICE,
            authenticator=AssumedAuthenticator(asks.partitioner, vouched=settings.identity.mode != "token"),
        )

    async def ask(self, entry: Entry) -> None:
        """Ask what *entry* records, at its moment; a clock that steps back stands still."""
        self._now = max(self._now, entry.at)
        query = is_listed(entry)
        principal = self._sharer(entry.caller)
        if query is not None and query.window.marker is not None:
            name = (principal, entry.path, query.canonical)
            marker = self._listings.resolve_marker(name, query.window.marker)
            entry = replace(entry, target=page_link("", entry.path, query.canonical, query.window, marker))
        name = (
            (principal, entry.path, query.canonical)
            if query
            else ("", f"{entry.method} {classify_path(entry.path).value}", "")
        )
        outcome = self._outcomes.setdefault(name, Outcome())
        outcome.requests += 1
        before = self._upstream.total
        if self._is_replayed(principal, entry):
            outcome.hits += 1
        else:
            outcome.hits += await self._answer(principal, name, entry)
        outcome.calls += self._upstream.total - before
        minute = self._minutes.setdefault(int(self._now // 60), [0, 0])
        minute[0] += 1
        minute[1] += self._upstream.total - before

    def result(self) -> ReplayResult:
        """Return what was asked so far came to."""
        busiest = [max((minute[at] for minute in self._minutes.values()), default=0) for at in (0, 1)]
        return ReplayResult(self._outcomes, (busiest[0], busiest[1]))

    async def close(self) -> None:
        """End what is under way."""
        await self._answering.close()

    def _is_replayed(self, principal: str, entry: Entry) -> bool:
        """Whether the same was answered before and may be answered again, as `proxy.server.fast_path` does."""
        kept = self._given.get((principal, entry.target)) if entry.method == "GET" else None
        return kept is not None and self._now < kept[0].until and kept[1] == self._answering.listings.epoch

    async def _answer(self, principal: str, name: Name, entry: Entry) -> bool:
        """Ask the gateway, let it finish what it began in the background, and return whether it was a hit."""
        self._upstream.entry, self._upstream.name = entry, name
        token = hashlib.blake2b(principal.encode("utf-8", "backslashreplace"), digest_size=16).hexdigest()
        request = Request(entry.method, entry.target, Fields([("X-Auth-Token", token)]), "replayed")
        epoch = self._answering.listings.epoch
        hit = False
        try:
            async with self._answering.gateway.answer(request, ClientConnection(None, "")) as answer:
                hit = answer.cache_status.fwd is None
                if answer.replay_terms is not None:
                    self._note_replay((principal, entry.target), (answer.replay_terms, epoch))
                if answer.streamed is not None:
                    async for _ in answer.streamed.chunks:
                        pass
        except ProxyError:
            hit = False
        for _ in range(_TURNS):
            if not self._answering.is_busy:
                break
            await asyncio.sleep(0)
        return hit

    def _note_replay(self, at: tuple[str, str], given: tuple[ReplayTerms, int | None]) -> None:
        if len(self._given) >= _REMEMBERED:
            self._given.clear()
        self._given[at] = given


def make_sharer(settings: Settings) -> Callable[[str], str]:
    """Return who shares the listings of a caller: in mode `gateway` everyone, else that caller alone."""
    return (lambda _: "") if settings.identity.mode == "gateway" else (lambda caller: caller)
