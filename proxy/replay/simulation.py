"""The proxy's own gateway, asked what a log tells, by a clock that only the log moves.

Nothing is decided here: every hit, fetch, readahead and revalidation is the gateway's decision, the same as in service.
What the log can't tell is assumed, and stands in docs/operations.md.

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
from proxy.core.list_api import LIST_APIS
from proxy.core.list_query import ListQuery, parse_list_query
from proxy.core.messages import Fields, Request, Response, StreamedResponse
from proxy.core.partition import NotShareable, Partition, Partitioner, Principal
from proxy.core.replay import ReplayTerms
from proxy.core.routes import classify_path
from proxy.errors import ProxyError
from proxy.gateway.gateway import ClientConnection
from proxy.listing.rendering import page_link
from proxy.listing.request import PageSizes
from proxy.observability.logging import Telemetry
from proxy.replay.entries import LogEntry
from proxy.replay.listings import ListingKey, ObservedListings, list_query_of
from proxy.runtime.container import Engines, make_engines
from proxy.storage.memory import MemoryStore

# What was refused for the request's own sake would be refused again; what failed or was throttled was for the moment's.
_REPEATED_STATUSES: Final = frozenset({400, 401, 403, 404})
# An image that is in no way special: it lacks no sort key, and is not about to change.
_ORDINARY_IMAGE: Final = {
    "name": "",
    "status": "active",
    "visibility": "public",
    "size": 1,
    "container_format": "bare",
    "disk_format": "raw",
}
_JSON_FIELDS: Final = Fields([("Content-Type", "application/json")])


class RecordedUpstream:
    """An `Upstream`; *call_count* counts its calls. *current_entry* is the request under way, *current_listing* the
    listing it asks for.
    """

    def __init__(self, listings: ObservedListings, page_sizes: PageSizes) -> None:
        self._listings = listings
        self._page_sizes = page_sizes
        self.call_count = 0
        self.current_entry: LogEntry | None = None
        self.current_listing: ListingKey = ("", "", "")

    async def fetch(self, request: Request) -> Response:
        """See `Upstream.fetch`."""
        self.call_count += 1
        entry = self.current_entry
        assert entry is not None
        query = (
            parse_list_query(request.query, LIST_APIS[request.path])
            if request.method in ("GET", "HEAD") and request.path in LIST_APIS
            else None
        )
        if entry.status in _REPEATED_STATUSES:
            return Response(entry.status, _JSON_FIELDS, b"{}")
        if not isinstance(query, ListQuery):
            done = entry.status if entry.status < 500 and entry.status != 429 else 200
            return Response(done, _JSON_FIELDS, b"{}")
        page = self._listings.page(
            (self.current_listing[0], self.current_listing[1], query.canonical),
            query.window.marker,
            self._page_sizes.row_count(query.window, LIST_APIS[request.path]),
        )
        if page is None:
            return Response(400, _JSON_FIELDS, b"{}")
        ids, goes_on = page
        api = LIST_APIS[request.path]
        told: dict[str, object] = {api.collection: [{"id": each, **_ORDINARY_IMAGE} for each in ids]}
        if goes_on and api.gives_next:
            told["next"] = f"{request.path}?marker={ids[-1]}"
        return Response(200, _JSON_FIELDS, orjson.dumps(told))

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[StreamedResponse]:
        """See `Upstream.stream`."""
        answer = await self.fetch(request)

        async def chunks() -> AsyncIterator[bytes]:
            yield answer.body

        yield StreamedResponse(answer.status, answer.reason, answer.fields, chunks())


_PARTITION_SECRET: Final = b"nothing is kept of a replay"
_FIXED_RANDOM: Final = 0.5  # lifetimes vary by up to a tenth; this is the mean
_MAX_FAST_PATH_ENTRIES: Final = 100_000
_MAX_EVENT_LOOP_TURNS: Final = 10_000


class AssumedAuthenticator(TokenAuthenticator):
    """Who a log calls by one name shares what is stored; *is_verified* says that IAM or the proxy would vouch for
    it.
    """

    def __init__(self, partitioner: Partitioner, *, is_verified: bool) -> None:
        super().__init__(partitioner)
        self._is_verified = is_verified

    async def _authenticate_token(self, request: Request, partition: Partition) -> Principal | NotShareable:  # noqa: ARG002 - see TokenDoor
        return Principal(partition, partition, is_verified=self._is_verified, may_share_public=self._is_verified)


@dataclass(slots=True)
class ReplayCounts:
    """What a listing's requests came to, or those of a route that is no list."""

    requests: int = 0
    hits: int = 0
    calls: int = 0


@dataclass(slots=True)
class ReplayResult:
    """What the whole log came to, by listing; *peak_calls_per_minute* are the most calls in a minute, without and with
    the proxy.
    """

    counts_by_listing: dict[ListingKey, ReplayCounts] = field(default_factory=dict)
    peak_calls_per_minute: tuple[int, int] = (0, 0)


class Simulation:
    """Asks one gateway, of a proxy with *settings*, what it would have been asked. *listings* have been learnt."""

    def __init__(self, settings: Settings, listings: ObservedListings) -> None:
        self._partition_of = make_sharer(settings)
        self._listings = listings
        self._upstream = RecordedUpstream(listings, page_sizes(settings))
        self._now = 0.0
        self._fast_path_entries: dict[tuple[str, str], tuple[ReplayTerms, int | None]] = {}
        self._counts_by_listing: dict[ListingKey, ReplayCounts] = {}
        self._calls_by_minute: dict[int, list[int]] = {}
        asks = make_list_rules(settings, _PARTITION_SECRET)
        self._engine: Engines = make_engines(
            settings,
            self._upstream,
            MemoryStore(settings.store.max_bytes),
            asks,
            telemetry=Telemetry(),
            clock=lambda: self._now,
            rng=lambda: _FIXED_RANDOM,
            authenticator=AssumedAuthenticator(asks.partitioner, is_verified=settings.identity.mode != "token"),
        )

    async def replay_entry(self, entry: LogEntry) -> None:
        """Ask what *entry* records, at its moment; a clock that steps back stands still."""
        self._now = max(self._now, entry.timestamp)
        query = list_query_of(entry)
        principal = self._partition_of(entry.caller)
        if query is not None and query.window.marker is not None:
            name = (principal, entry.path, query.canonical)
            marker = self._listings.resolve_marker(name, query.window.marker)
            entry = replace(entry, target=page_link("", entry.path, query.canonical, query.window, marker))
        name = (
            (principal, entry.path, query.canonical)
            if query
            else ("", f"{entry.method} {classify_path(entry.path).value}", "")
        )
        outcome = self._counts_by_listing.setdefault(name, ReplayCounts())
        outcome.requests += 1
        before = self._upstream.call_count
        if self._is_fast_path_hit(principal, entry):
            outcome.hits += 1
        else:
            outcome.hits += await self._send_to_gateway(principal, name, entry)
        outcome.calls += self._upstream.call_count - before
        minute = self._calls_by_minute.setdefault(int(self._now // 60), [0, 0])
        minute[0] += 1
        minute[1] += self._upstream.call_count - before

    def result(self) -> ReplayResult:
        """Return what was asked so far came to."""
        busiest = [max((minute[at] for minute in self._calls_by_minute.values()), default=0) for at in (0, 1)]
        return ReplayResult(self._counts_by_listing, (busiest[0], busiest[1]))

    async def close(self) -> None:
        """End what is under way."""
        await self._engine.close()

    def _is_fast_path_hit(self, principal: str, entry: LogEntry) -> bool:
        """Whether the same was answered before and may be answered again, as `proxy.server.fast_path` does."""
        kept = self._fast_path_entries.get((principal, entry.target)) if entry.method == "GET" else None
        return kept is not None and self._now < kept[0].until and kept[1] == self._engine.listings.epoch

    async def _send_to_gateway(self, principal: str, listing_key: ListingKey, entry: LogEntry) -> bool:
        """Ask the gateway, let it finish what it began in the background, and return whether it was a hit."""
        self._upstream.current_entry, self._upstream.current_listing = entry, listing_key
        token = hashlib.blake2b(principal.encode("utf-8", "backslashreplace"), digest_size=16).hexdigest()
        request = Request(entry.method, entry.target, Fields([("X-Auth-Token", token)]), "replayed")
        epoch = self._engine.listings.epoch
        hit = False
        try:
            async with self._engine.gateway.answer(request, ClientConnection(None, "")) as answer:
                hit = answer.cache_status.fwd is None
                if answer.replay_terms is not None:
                    self._store_fast_path_entry((principal, entry.target), (answer.replay_terms, epoch))
                if answer.streamed is not None:
                    async for _ in answer.streamed.chunks:
                        pass
        except ProxyError:
            hit = False
        for _ in range(_MAX_EVENT_LOOP_TURNS):
            if not self._engine.is_busy:
                break
            await asyncio.sleep(0)
        return hit

    def _store_fast_path_entry(self, key: tuple[str, str], fast_path_entry: tuple[ReplayTerms, int | None]) -> None:
        if len(self._fast_path_entries) >= _MAX_FAST_PATH_ENTRIES:
            self._fast_path_entries.clear()
        self._fast_path_entries[key] = fast_path_entry


def make_sharer(settings: Settings) -> Callable[[str], str]:
    """Return who shares the listings of a caller: in mode `gateway` everyone, else that caller alone."""
    return (lambda _: "") if settings.identity.mode == "gateway" else (lambda caller: caller)
