"""The proxy's own gateway, asked what a log tells, by a clock that only the log moves.

Nothing is decided here: every hit, fetch, readahead and revalidation is the gateway's decision, the same as in service.
What the log can't tell is assumed, and stands in docs/operating.md.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from proxy.auth.authenticators import TokenDoor
from proxy.config.model import Settings
from proxy.config.policies import asking, page_sizes
from proxy.core.messages import Fields, Request
from proxy.core.partition import Partition, Partitioner, Unshared, Who
from proxy.core.routes import route
from proxy.errors import ProxyError
from proxy.gateway.gateway import Arrival
from proxy.listing.links import page_link
from proxy.listing.listed import Repeatable
from proxy.observability.logging import Telemetry
from proxy.replay.entries import Entry
from proxy.replay.listings import Listings, Name, listed
from proxy.replay.upstream import RecordedUpstream
from proxy.runtime.answering import Answering, answering
from proxy.storage.memory import MemoryStore

_SECRET: Final = b"nothing is kept of a replay"
_DICE: Final = 0.5  # lifetimes vary by up to a tenth; this is the mean
_REMEMBERED: Final = 100_000
_TURNS: Final = 10_000


class AssumedDoor(TokenDoor):
    """Who a log calls by one name shares what is stored; *vouched* says that IAM or the proxy would vouch for it."""

    def __init__(self, partitioner: Partitioner, *, vouched: bool) -> None:
        super().__init__(partitioner)
        self._vouched = vouched

    async def _token(self, request: Request, partition: Partition) -> Who | Unshared:  # noqa: ARG002 - see TokenDoor
        return Who(partition, partition, verified=self._vouched, public=self._vouched)


@dataclass(slots=True)
class Outcome:
    """What a listing's requests came to, or those of a route that is no list."""

    requests: int = 0
    hits: int = 0
    calls: int = 0


@dataclass(slots=True)
class Replayed:
    """What the whole log came to, by listing; *busiest* are the most calls in a minute, without and with the proxy."""

    outcomes: dict[Name, Outcome] = field(default_factory=dict)
    busiest: tuple[int, int] = (0, 0)


class Simulation:
    """Asks one gateway, of a proxy with *settings*, what it would have been asked. *listings* have been learnt."""

    def __init__(self, settings: Settings, listings: Listings) -> None:
        self._sharer = sharer(settings)
        self._listings = listings
        self._upstream = RecordedUpstream(listings, page_sizes(settings))
        self._now = 0.0
        self._given: dict[tuple[str, str], tuple[Repeatable, int | None]] = {}
        self._outcomes: dict[Name, Outcome] = {}
        self._minutes: dict[int, list[int]] = {}
        asks = asking(settings, _SECRET)
        self._answering: Answering = answering(
            settings,
            self._upstream,
            MemoryStore(settings.store.max_bytes),
            asks,
            telemetry=Telemetry(),
            clock=lambda: self._now,
            dice=lambda: _DICE,
            door=AssumedDoor(asks.partitioner, vouched=settings.identity.mode != "token"),
        )

    async def ask(self, entry: Entry) -> None:
        """Ask what *entry* records, at its moment; a clock that steps back stands still."""
        self._now = max(self._now, entry.at)
        query = listed(entry)
        who = self._sharer(entry.caller)
        if query is not None and query.window.marker is not None:
            name = (who, entry.path, query.canonical)
            marker = self._listings.standing_in(name, query.window.marker)
            entry = replace(entry, target=page_link("", entry.path, query.canonical, query.window, marker))
        name = (who, entry.path, query.canonical) if query else ("", f"{entry.method} {route(entry.path).value}", "")
        outcome = self._outcomes.setdefault(name, Outcome())
        outcome.requests += 1
        before = self._upstream.total
        if self._repeated(who, entry):
            outcome.hits += 1
        else:
            outcome.hits += await self._asked(who, name, entry)
        outcome.calls += self._upstream.total - before
        minute = self._minutes.setdefault(int(self._now // 60), [0, 0])
        minute[0] += 1
        minute[1] += self._upstream.total - before

    def replayed(self) -> Replayed:
        """Return what was asked so far came to."""
        busiest = [max((minute[at] for minute in self._minutes.values()), default=0) for at in (0, 1)]
        return Replayed(self._outcomes, (busiest[0], busiest[1]))

    async def close(self) -> None:
        """End what is under way."""
        await self._answering.close()

    def _repeated(self, who: str, entry: Entry) -> bool:
        """Whether the same was answered before and may be answered again, as `proxy.server.fast_path` does."""
        kept = self._given.get((who, entry.target)) if entry.method == "GET" else None
        return kept is not None and self._now < kept[0].until and kept[1] == self._answering.listings.epoch

    async def _asked(self, who: str, name: Name, entry: Entry) -> bool:
        """Ask the gateway, let it finish what it began in the background, and return whether it was a hit."""
        self._upstream.entry, self._upstream.name = entry, name
        token = hashlib.blake2b(who.encode("utf-8", "backslashreplace"), digest_size=16).hexdigest()
        request = Request(entry.method, entry.target, Fields([("X-Auth-Token", token)]), "replayed")
        epoch = self._answering.listings.epoch
        hit = False
        try:
            async with self._answering.gateway.answer(request, Arrival(None, "")) as answer:
                hit = answer.cache_status.fwd is None
                if answer.repeatable is not None:
                    self._remember((who, entry.target), (answer.repeatable, epoch))
                if answer.exchange is not None:
                    async for _ in answer.exchange.chunks:
                        pass
        except ProxyError:
            hit = False
        for _ in range(_TURNS):
            if not self._answering.busy:
                break
            await asyncio.sleep(0)
        return hit

    def _remember(self, at: tuple[str, str], given: tuple[Repeatable, int | None]) -> None:
        if len(self._given) >= _REMEMBERED:
            self._given.clear()
        self._given[at] = given


def sharer(settings: Settings) -> Callable[[str], str]:
    """Return who shares the listings of a caller: in mode `gateway` everyone, else that caller alone."""
    return (lambda _: "") if settings.identity.mode == "gateway" else (lambda caller: caller)
