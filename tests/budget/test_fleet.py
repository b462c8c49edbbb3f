"""The shield before an upstream that throttles: whole proxies, real sockets, a real Redis, the upstream's own log."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from proxy.config import BudgetSection, CacheSection, Settings
from proxy.demo.server import Call, Lookalike
from proxy.demo.throttle import ThrottlePolicy
from proxy.web.app import Running
from tests.budget.windows import most_in_a_window
from tests.fleet import trace
from tests.fleet.replicas import replicas, settings
from tests.harness.redis import RedisServer

CRAWLS = int(os.environ.get("IMS_TEST_CRAWLS", "60"))  # of the two hundred that the trace has
PRESSURE_S = float(os.environ.get("IMS_TEST_PRESSURE_S", "3"))
QUIET_S = 4.0  # after Redis died: what may be on its way, and a window
A_SECOND = ThrottlePolicy(limit=20, window_s=1)


@asynccontextmanager
async def upstream(throttle: ThrottlePolicy | None = None, *, latency_s: float = 0.0) -> AsyncIterator[Lookalike]:
    """Run the look-alike with the fleet's catalogue."""
    async with Lookalike(trace.catalogue(), trace.TOKENS, throttle=throttle, latency_s=latency_s) as running:
        yield running


def budgeted(base: Settings, **budget: object) -> Settings:
    """Return *base* with the settings *budget*."""
    return base.model_copy(update={"budget": BudgetSection.model_validate(budget)})


def provoked(lookalike: Lookalike) -> int:
    """Return how many calls the upstream refused as too many."""
    return sum(call.status == 429 for call in lookalike.calls)


async def traced(lookalike: Lookalike, proxies: list[Running]) -> trace.Figures:
    """Run the fleet trace."""
    return await trace.run(
        trace.crawls(CRAWLS),
        lookalike.catalogue,
        lambda: list(lookalike.calls),
        lambda crawl: lambda _: proxies[crawl.number % len(proxies)].url,
    )


async def test_with_a_budget_no_call_of_the_fleet_trace_is_refused() -> None:
    """Four callers of a project with five calls a second each: the upstream refuses none, and every answer is right."""
    async with upstream(A_SECOND) as lookalike:
        limited = budgeted(settings(lookalike.base_url), calls=5, per_s=1.0)
        async with replicas(1, limited) as proxies:
            figures = await traced(lookalike, proxies)
    print(f"budget set: {figures}, {provoked(lookalike)} provoked")
    assert figures.wrong == ()
    assert provoked(lookalike) == 0


async def test_without_a_budget_it_is_learnt_and_no_refusal_reaches_a_client() -> None:
    """The upstream's own words are enough: a handful are refused on the way, and no caller hears of it."""
    async with upstream(A_SECOND) as lookalike, replicas(1, settings(lookalike.base_url)) as proxies:
        figures = await traced(lookalike, proxies)
    print(f"budget learnt: {figures}, {provoked(lookalike)} provoked")
    assert figures.wrong == ()
    assert provoked(lookalike) <= 8


class Pressure:
    """Callers that ask for ever new lists, in turn at each of several proxies; when each call arrived upstream."""

    def __init__(self, lookalike: Lookalike, proxies: list[Running]) -> None:
        self.proxies = proxies
        self.arrivals: list[float] = []
        self.statuses: list[int] = []
        lookalike.script = self._log

    async def _log(self, _: Call) -> None:
        self.arrivals.append(time.monotonic())

    async def run(self, *, until: float, callers: int) -> None:
        """Ask until then, by the monotonic clock."""
        token = next(iter(trace.TOKENS))
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:

            async def caller(number: int) -> None:
                count = 0
                while time.monotonic() < until:
                    url = self.proxies[number % len(self.proxies)].url
                    count += 1
                    query = f"limit=5&name={number}-{count}"
                    async with client.get(f"{url}/v2/images?{query}", headers={"X-Auth-Token": token}) as answer:
                        await answer.read()
                        self.statuses.append(answer.status)
                    if answer.status == 429:
                        await asyncio.sleep(0.05)

            await asyncio.gather(*(caller(number) for number in range(callers)))


@pytest.mark.parametrize("killed", [False, True], ids=["redis stays", "redis dies half way"])
async def test_four_replicas_never_exceed_one_budget(tmp_path: Path, killed: bool) -> None:
    """At full pressure, by the upstream's log, no window sees more than twenty calls, Redis or no Redis."""
    with RedisServer(tmp_path) as redis:
        async with upstream(latency_s=0.01) as lookalike:
            base = settings(lookalike.base_url, store=redis.url, timeout_ms=500.0)
            base = base.model_copy(update={"upstream": base.upstream.model_copy(update={"connect_timeout_s": 0.5})})
            limited = budgeted(base, calls=20, per_s=1.0, scope="upstream", max_wait_s=2.0)
            async with replicas(4, limited) as proxies:
                await asyncio.sleep(0.5)
                pressure = Pressure(lookalike, proxies)
                seconds = 2 * PRESSURE_S + QUIET_S if killed else PRESSURE_S
                run = asyncio.create_task(pressure.run(until=time.monotonic() + seconds, callers=40))
                if killed:
                    await asyncio.sleep(PRESSURE_S)
                    redis.kill()
                    died = time.monotonic()
                await run
        most = most_in_a_window(pressure.arrivals, 1.0)
        print(f"four replicas: {len(pressure.arrivals)} calls in {seconds:g}s, at most {most} in any second")
        assert most <= 20
        assert not {status for status in pressure.statuses if status not in (200, 429)}
        if killed:
            after = [at for at in pressure.arrivals if at > died]
            print(f"without Redis: {len(after)} calls from its parts")
            assert after
        else:
            assert len(pressure.arrivals) >= 20


async def test_a_crawler_does_not_starve_the_others() -> None:
    """Ten callers with three lists each beside one with five hundred: while they run, most calls are theirs.

    Under a budget time is counted in calls: alone they need thirty, and beside the crawler at most twice as many pass.
    """
    crawler, *tokens = list(trace.TOKENS)[:11]

    async def lists(url: str, token: str, count: int) -> None:
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as client:

            async def one(number: int) -> None:
                query = f"limit=5&name={number}"
                async with client.get(f"{url}/v2/images?{query}", headers={"X-Auth-Token": token}) as answer:
                    assert answer.status == 200 or token == crawler

            await asyncio.gather(*(one(number) for number in range(count)))

    busy = asyncio.Event()
    async with upstream() as lookalike:

        async def count(_: Call) -> None:
            if len(lookalike.calls) >= 20:
                busy.set()

        lookalike.script = count
        limited = budgeted(settings(lookalike.base_url), calls=20, per_s=0.5, scope="upstream")
        async with replicas(1, limited) as (proxy,):
            crawl = asyncio.create_task(lists(proxy.url, crawler, 500))
            await busy.wait()
            before = len(lookalike.calls)
            await asyncio.gather(*(lists(proxy.url, token, 3) for token in tokens))
            during = len(lookalike.calls) - before
            crawl.cancel()
            await asyncio.gather(crawl, return_exceptions=True)
    print(f"thirty lists of ten callers: done after {during} calls beside a crawl of 500")
    assert during <= 60


async def _hang(_: Call) -> None:
    await asyncio.sleep(60)


async def _reset(call: Call) -> None:
    call.hang_up()
    await asyncio.sleep(1)


async def _slow(_: Call) -> None:
    await asyncio.sleep(0.1)


async def _truncated(call: Call) -> web.StreamResponse:
    assert call.transport is not None
    call.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nContent-Type: application/json\r\n\r\n{")
    call.hang_up()
    return web.Response()


def _saying(status: int) -> object:
    async def said(_: Call) -> web.StreamResponse:
        return web.Response(status=status, headers={"Retry-After": "1"} if status == 429 else {})

    return said


MISBEHAVIOUR = {
    "slow": (_slow, {200}),
    "hanging": (_hang, {504, 503, 429}),
    "429": (_saying(429), {429}),
    "503": (_saying(503), {503}),
    "resets": (_reset, {502, 503}),
    "truncated": (_truncated, {502, 503}),
}


async def test_what_callers_see_of_an_upstream_that_misbehaves() -> None:
    """Every third call goes wrong, and then every one: what had been fetched is given, and nobody waits for long."""
    rows = []
    for name, (behaviour, _) in MISBEHAVIOUR.items():
        async with upstream() as lookalike:
            base = settings(lookalike.base_url, ttl_s=0.3)
            base = base.model_copy(
                update={
                    "upstream": base.upstream.model_copy(update={"read_timeout_s": 0.5}),
                    "cache": CacheSection(ttl_s=0.3, stale_while_revalidate_s=0, readahead=False),
                }
            )
            async with replicas(1, budgeted(base, max_wait_s=1.2)) as (proxy,):
                rows.append(await _observed(name, lookalike, proxy, behaviour))
    print("upstream    known lists  new lists, 1 in 3 wrong  new lists, all wrong  slowest")
    for name, known, third, every, slowest in rows:
        print(f"{name:<10}  {known!s:<11}  {third!s:<23}  {every!s:<20}  {slowest:.1f}s")
        assert known == {200: 12}, "what was fetched before is given, stale"
        assert set(every) <= MISBEHAVIOUR[name][1], (name, every)
        assert third.get(200, 0) >= {"hanging": 6, "429": 4}.get(name, 10), (name, third)
        assert slowest < 4.0


async def _observed(name: str, lookalike: Lookalike, proxy: Running, behaviour: object) -> tuple:  # type: ignore[type-arg]
    """Return the statuses of known lists, of new ones with every third call wrong, and with all wrong; the slowest."""
    token = next(iter(trace.TOKENS))
    slowest = 0.0
    count = 0

    async def third(call: Call) -> web.StreamResponse | None:
        nonlocal count
        count += 1
        return None if count % 3 else await behaviour(call)  # type: ignore[operator]

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:

        async def asked(names: list[str]) -> dict[int, int]:
            nonlocal slowest

            async def one(query: str) -> int:
                async with client.get(f"{proxy.url}/v2/images?{query}", headers={"X-Auth-Token": token}) as answer:
                    await answer.read()
                    return answer.status

            began = time.monotonic()
            statuses = await asyncio.gather(*(one(f"limit=5&name={each}") for each in names))
            slowest = max(slowest, time.monotonic() - began)
            return {status: statuses.count(status) for status in sorted(set(statuses))}

        known = [f"known-{number}" for number in range(12)]
        await asked(known)
        lookalike.script = third
        partly = await asked([f"third-{number}" for number in range(12)])
        await asyncio.sleep(0.4)
        lookalike.script = behaviour  # type: ignore[assignment]
        stale = await asked(known)
        return name, stale, partly, await asked([f"every-{number}" for number in range(12)]), slowest
