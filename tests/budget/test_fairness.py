"""Callers of one budget: a crawler with hundreds of lists, and those who have one each."""

from __future__ import annotations

import asyncio

import aiohttp
import orjson
from yarl import URL

from proxy.config import CacheSection
from proxy.demo.server import Call
from tests.budget.upstreams import budgeted, upstream
from tests.conftest import Say
from tests.fleet import trace
from tests.fleet.replicas import replicas, settings

CRAWLER, *TOKENS = list(trace.TOKENS)[:11]
PAGES = "limit=10&visibility=private&tag=release+candidate"  # five or six of them in each project


async def crawl(client: aiohttp.ClientSession, url: str, token: str, query: str) -> None:
    """Follow a listing to its end, page by page."""
    target = f"/v2/images?{query}"
    while target:
        async with client.get(URL(url + target, encoded=True), headers={"X-Auth-Token": token}) as answer:
            assert answer.status == 200
            target = orjson.loads(await answer.read()).get("next", "")


async def test_a_crawler_does_not_starve_the_others(say: Say) -> None:
    """Ten callers crawl one list each, alone and then beside one with five hundred lists queued.

    Under a budget time is counted in calls: until the ten are done, beside the crawler at most twice as many pass.
    """
    busy = asyncio.Event()
    async with upstream() as lookalike:

        async def count(_: Call) -> None:
            if len(lookalike.calls) >= alone + 40:
                busy.set()

        limited = budgeted(settings(lookalike.base_url), calls=20, per_s=0.5, scope="upstream", max_wait_s=600)
        limited = limited.model_copy(update={"cache": CacheSection(readahead=False)})
        timeout = aiohttp.ClientTimeout(total=None)
        async with (
            replicas(1, limited) as (proxy,),
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as client,
        ):

            async def ten(query: str) -> int:
                before = len(lookalike.calls)
                await asyncio.gather(*(crawl(client, proxy.url, token, f"{PAGES}&{query}") for token in TOKENS))
                return len(lookalike.calls) - before

            alone = await ten("sort_dir=asc")
            lookalike.script = count
            crawls = [
                asyncio.create_task(crawl(client, proxy.url, CRAWLER, f"limit=10&name={number}"))
                for number in range(500)
            ]
            await busy.wait()
            beside = await ten("sort_dir=desc")
            for each in crawls:
                each.cancel()
            await asyncio.gather(*crawls, return_exceptions=True)
    say(f"ten crawls: {alone} calls alone, done after {beside} beside 500 crawls of one caller")
    assert alone >= 5 * len(TOKENS)
    assert beside <= 2 * alone
