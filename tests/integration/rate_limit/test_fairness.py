"""Callers of one budget: a crawler with hundreds of lists, and those who have one each."""

from __future__ import annotations

import asyncio

import aiohttp
import orjson
from yarl import URL

from proxy.config.model import CacheSection, Settings
from proxy.demo.app import RecordedCall
from tests.conftest import Say
from tests.support import trace
from tests.support.replicas import replicas, settings
from tests.support.throttled_upstreams import budgeted, upstream
from tests.support.waiting import until

CRAWLER, *TOKENS = list(trace.TOKENS)[:11]
PAGES = "limit=10&visibility=private&tag=release+candidate"  # five or six of them in each project
QUEUED = 500


async def crawl(client: aiohttp.ClientSession, url: str, token: str, query: str) -> int:
    """Follow a listing to its end, page by page, and return how many there were."""
    target, pages = f"/v2/images?{query}", 0
    while target:
        async with client.get(URL(url + target, encoded=True), headers={"X-Auth-Token": token}) as answer:
            assert answer.status == 200
            target = orjson.loads(await answer.read()).get("next", "")
        pages += 1
    return pages


def one_at_a_time(url: str) -> Settings:
    """Return the settings of a proxy before *url* with one queue, of which one call at a time is made."""
    base = budgeted(settings(url), calls=100_000, per_s=1.0, scope="upstream", max_wait_s=600)
    alone = base.upstream.model_copy(update={"max_connections": 1, "read_timeout_s": 600})
    return base.model_copy(update={"upstream": alone, "cache": CacheSection(readahead=False)})


async def test_a_crawler_does_not_starve_the_others(say: Say) -> None:
    """Ten callers crawl one list each beside one with five hundred lists queued, which gets no more turns than each.

    One call is under way at a time, and none is answered before all who go on have come back for their next: how fast
    they do has no part in it.
    """
    asked = dict.fromkeys((CRAWLER, *TOKENS), 0)
    going_on: set[str] = set()
    over = asyncio.Event()
    timeout = aiohttp.ClientTimeout(total=None)
    async with (
        upstream() as lookalike,
        replicas(1, one_at_a_time(lookalike.base_url)) as (proxy,),
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as client,
    ):

        async def all_wait(under_way: str) -> bool:
            if over.is_set():
                return True
            async with client.get(f"{proxy.admin_url}/stats") as answer:
                waiting = orjson.loads(await answer.read())["budget"]["queued"]
            return bool(waiting == QUEUED - asked[CRAWLER] + len(going_on - {under_way}))

        async def script(call: RecordedCall) -> None:
            token = call.headers["X-Auth-Token"]
            asked[token] += 1
            await until(lambda: all_wait(token))

        async def one(token: str) -> int:
            pages = await crawl(client, proxy.url, token, f"{PAGES}&sort_dir=desc")
            going_on.discard(token)
            return pages

        lookalike.response_hook = script
        queued = (f"limit=10&name={number}" for number in range(QUEUED))
        crawls = [asyncio.create_task(crawl(client, proxy.url, CRAWLER, query)) for query in queued]
        await until(lambda: asked[CRAWLER] > 0)
        going_on.update(TOKENS)
        pages = await asyncio.gather(*map(one, TOKENS))
        over.set()
        for each in crawls:
            each.cancel()
        await asyncio.gather(*crawls, return_exceptions=True)
    callers = [call.headers["X-Auth-Token"] for call in lookalike.calls]
    theirs = [at for at, token in enumerate(callers) if token != CRAWLER]
    beside = callers[theirs[0] : theirs[-1]].count(CRAWLER)
    say(f"ten crawls of {min(pages)} to {max(pages)} pages: {beside} calls of one with {QUEUED} lists meanwhile")
    assert min(pages) >= 5
    assert max(pages) - 1 <= beside <= max(pages)
