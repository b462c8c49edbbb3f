"""What a replay predicts, held against what a proxy that was really asked called its upstream for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any
from urllib.parse import urlencode

import pytest

from proxy.config.model import Settings
from proxy.config.policies import page_sizes
from proxy.demo.app import ImsLookalike
from proxy.demo.seed import TOKENS, make_demo_catalogue
from proxy.replay.entries import LogEntry, parse_entry
from proxy.replay.listings import ObservedListings
from proxy.replay.report import report_rows, sum_outcomes
from proxy.replay.simulation import Simulation, make_sharer
from tests.support.clock import Clock, clock
from tests.support.running import ALPHA, BETA, Proxy, a_proxy, settings_for

__all__ = ["clock"]


@dataclass
class Recorder:
    """Asks a proxy, and logs what it asked as nginx would have before it: to the second, with the size of the body."""

    proxy: Proxy
    lines: list[str] = field(default_factory=list)
    exact: list[LogEntry] = field(default_factory=list)
    hits: int = 0

    async def ask(self, token: str, target: str, *, method: str = "GET", body: bytes | None = None) -> Any:
        answer = await self.proxy.client.ask(target, token=token, method=method, body=body)
        self.hits += answer.hit
        _, day, month, year, clock, _ = formatdate(time.time(), usegmt=True).split()
        at = f"{day}/{month}/{year}:{clock} +0000"
        size = len(answer.body)
        self.exact.append(LogEntry(time.time(), token, method, target, answer.status, size))
        self.lines.append(f'127.0.0.1 - {token} [{at}] "{method} {target} HTTP/1.1" {answer.status} {size} "-" "test"')
        await self.settle()
        return answer

    async def settle(self) -> None:
        """Wait for what the proxy fetches in the background: a log to the second does not tell who came before it."""
        async with asyncio.timeout(60):
            while (await self.proxy.admin.ask("/stats", token=None)).json()["concurrency"]["in_flight"]:
                await asyncio.sleep(0.01)

    async def crawl(self, token: str, limit: int, *, pages: int = 1000, **filters: str) -> None:
        """Follow `next` to the end, or for so many pages."""
        target = "/v2/images?" + urlencode({**filters, "limit": limit})
        for _ in range(pages):
            told = (await self.ask(token, target)).json()
            if "next" not in told:
                return
            target = told["next"]

    def entries(self) -> list[LogEntry]:
        """Return what was logged, as it is read."""
        found = [parse_entry(line) for line in self.lines]
        return [each for each in found if isinstance(each, LogEntry)]


async def predicted(entries: list[LogEntry], settings: Settings) -> tuple[int, int]:
    """Return the hits and the upstream calls that a replay predicts."""
    listings = ObservedListings(page_sizes(settings), partition_of=make_sharer(settings))
    for each in entries:
        listings.observe(each)
    simulation = Simulation(settings, listings)
    for each in entries:
        await simulation.replay_entry(each)
    await simulation.close()
    everything = sum_outcomes(report_rows(simulation.result())).counts
    return everything.hits, everything.calls


async def crawls(recorder: Recorder) -> None:
    """Crawls of the same listing by other limits, look-ups, another project, and filters."""
    for limit in (25, 10, 100, 7):
        await recorder.crawl(ALPHA, limit)
    await recorder.crawl(BETA, 50)
    for _ in range(3):
        await recorder.crawl(ALPHA, 20, visibility="public")
        await recorder.ask(ALPHA, "/v2/images?name=nothing&limit=1")


async def half_crawls(recorder: Recorder) -> None:
    """Callers that stop on the way, where the proxy may have read ahead in vain."""
    for pages in (1, 2, 3, 5, 8):
        await recorder.crawl(ALPHA, 10, pages=pages, status="active")
        await recorder.crawl(BETA, 25, pages=pages)


async def writes(recorder: Recorder) -> None:
    """Each write makes what is stored out of date, refused ones don't."""
    for number in range(3):
        await recorder.crawl(ALPHA, 50)
        body = b'{"name": "made", "disk_format": "raw", "container_format": "bare"}'
        await recorder.ask(ALPHA, "/v2/images", method="POST", body=body if number else b"{}")
        await recorder.ask(BETA, "/v2/images?limit=5")


async def refusals(recorder: Recorder) -> None:
    """Unknown markers, unclear queries, other orders, and what is no list."""
    for _ in range(3):
        await recorder.ask(ALPHA, "/v2/images?limit=5&marker=nowhere")
        await recorder.ask(ALPHA, "/v2/images?limit=5;limit=6")
        await recorder.crawl(ALPHA, 60, sort_key="name")
        await recorder.crawl(ALPHA, 80, sort_key="size")
        await recorder.ask(ALPHA, "/v2/schemas/image")
        await recorder.ask("nobody", "/v2/images?limit=5")


@pytest.mark.parametrize("stale_s", [0, 60])
async def test_lifetimes_end_when_they_did(clock: Clock, stale_s: int) -> None:
    """By a log that tells fractions of a second; with a stale window too, in which a hit costs a call."""
    async with ImsLookalike(make_demo_catalogue(60), TOKENS) as upstream:
        cache = {"ttl_s": 1, "transient_ttl_s": 1, "stale_while_revalidate_s": stale_s, "stale_if_error_s": stale_s}
        async with a_proxy(upstream.base_url, cache=cache) as proxy:
            recorder = Recorder(proxy)
            for _ in range(3):
                for _ in range(5):
                    await recorder.ask(ALPHA, "/v2/images?limit=10")
                    clock.now += 0.1
                clock.now += 1.0
            made = len(upstream.calls)
        hits, calls = await predicted(recorder.exact, settings_for(upstream.base_url, cache=cache))
    assert (calls, hits) == (made, recorder.hits)
    assert calls >= 3


@pytest.mark.parametrize("trace", [crawls, half_crawls, writes, refusals])
@pytest.mark.parametrize("readahead", [True, False])
async def test_the_calls_predicted_are_the_calls_made(trace: Callable[[Recorder], Any], readahead: bool) -> None:
    """Within one call in twenty, and one: a log to the second does not tell everything."""
    async with ImsLookalike(make_demo_catalogue(400), TOKENS) as upstream:
        cache = {"readahead": readahead, "ttl_s": 600, "transient_ttl_s": 600}
        async with a_proxy(upstream.base_url, cache=cache) as proxy:
            recorder = Recorder(proxy)
            await trace(recorder)
            made = len(upstream.calls)
        hits, calls = await predicted(recorder.entries(), settings_for(upstream.base_url, cache=cache))
    tolerated = 1 + made / 20
    assert abs(calls - made) <= tolerated, (calls, made)
    assert abs(hits - recorder.hits) <= tolerated, (hits, recorder.hits)
    assert made < len(recorder.lines) or not readahead
