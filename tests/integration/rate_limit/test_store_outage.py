"""Whole replicas with one budget whose Redis goes away: nobody is refused below the budget, and the bound is kept.

By the upstream's own log. Readers may use 95 % of a budget, so below it means below that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from math import ceil
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from proxy.config.model import Settings
from proxy.demo.app import ImsLookalike, RecordedCall
from proxy.demo.throttle import ThrottlePolicy
from tests.conftest import Say
from tests.support import trace
from tests.support.proxy import ProxyProcess
from tests.support.redis import RedisServer
from tests.support.redis_fleet import SentinelService
from tests.support.replicas import HasAdmin, metric, replicas, settings
from tests.support.throttled_upstreams import budgeted, upstream
from tests.support.windows import most_in_a_window

WITHIN_S: Final = 60.0
MAX_WAIT_S: Final = 6.0  # longer than Redis is away where it comes back
TOKEN: Final = next(iter(trace.TOKENS))


@dataclass(frozen=True, slots=True)
class Limit:
    """So many calls in a period, configured or *learnt*."""

    calls: int
    per_s: int
    learnt: bool = False

    @property
    def readable(self) -> int:
        """How many of them readers may use."""
        return self.calls - int(self.calls * 0.05)

    def bound(self, number: int) -> int:
        """Return the most calls in a window of *number* replicas without Redis, whatever happens."""
        return self.calls + (number - 1) * ceil(self.calls / number)

    def settings(self, base: Settings) -> Settings:
        """Return *base* with this limit."""
        limits = {} if self.learnt else {"calls": self.calls, "per_s": self.per_s}
        return budgeted(base, max_wait_s=MAX_WAIT_S, **limits)

    @property
    def throttle(self) -> ThrottlePolicy | None:
        """What the upstream says."""
        return ThrottlePolicy(limit=self.calls, window_s=self.per_s) if self.learnt else None


SMALL, LARGE, LEARNT = Limit(60, 30), Limit(200, 300), Limit(20, 60, learnt=True)


@dataclass
class Asking:
    """Asks replicas in turn for lists that nobody has asked for; *arrivals* is when calls reached the upstream."""

    client: aiohttp.ClientSession
    urls: Sequence[str]
    arrivals: list[float] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    names: Any = field(default_factory=count)

    async def logged(self, call: RecordedCall) -> None:
        """Log a call."""
        self.arrivals.append(time.monotonic())

    async def miss(self) -> int:
        """Ask for one more list, and return what came."""
        number = next(self.names)
        url = f"{self.urls[number % len(self.urls)]}/v2/images?limit=5&name=n{number}"
        async with self.client.get(url, headers={"X-Auth-Token": TOKEN}) as answer:
            await answer.read()
        self.statuses.append(answer.status)
        return answer.status

    async def until(self, calls: int, *, together: int = 1) -> None:
        """Ask until so many calls have reached the upstream; some *together*."""
        while len(self.arrivals) < calls:
            await asyncio.gather(*(self.miss() for _ in range(min(together, calls - len(self.arrivals)))))

    async def while_away(self, calls: int, *, seconds: float) -> None:
        """Ask for so many, spread over *seconds*."""
        for _ in range(calls):
            await self.miss()
            await asyncio.sleep(seconds / calls)


@asynccontextmanager
async def asking(lookalike: ImsLookalike, proxies: Sequence[Any]) -> AsyncIterator[Asking]:
    """Give who asks *proxies*, once each of these knows of all."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client, asyncio.timeout(WITHIN_S):
        for proxy in proxies:
            await holds(partial(_knows, client, proxy, len(proxies)))
        made = Asking(client, [proxy.url for proxy in proxies])
        lookalike.response_hook = made.logged
        yield made


async def _knows(client: aiohttp.ClientSession, proxy: HasAdmin, number: int) -> bool:
    return bool((await told(client, proxy, "stats"))["store"]["replicas"] == number)


async def told(client: aiohttp.ClientSession, proxy: HasAdmin, path: str) -> Any:
    """Return what operators are told."""
    async with client.get(f"{proxy.admin_url}/{path}") as answer:
        assert answer.status == 200
        return await answer.json()


async def holds(condition: Callable[[], Awaitable[bool]]) -> None:
    """Return when *condition* holds; whoever calls limits the time."""
    while not await condition():
        await asyncio.sleep(0.05)


async def killed(redis: RedisServer, asked: Asking, calls: int) -> None:
    """Redis dies, and nobody brings it back."""
    redis.kill()
    await asked.while_away(calls, seconds=1.0)


async def restarted(redis: RedisServer, asked: Asking, calls: int) -> None:
    """Redis is back after two seconds, empty."""
    redis.kill()
    await asked.while_away(calls, seconds=2.0)
    await asyncio.to_thread(redis.start)


async def paused(redis: RedisServer, asked: Asking, calls: int) -> None:
    """Redis stands still for three seconds."""
    redis.pause()
    try:
        await asked.while_away(calls, seconds=3.0)
    finally:
        redis.resume()


Trouble = Callable[[RedisServer, Asking, int], Awaitable[None]]


@pytest.mark.parametrize("trouble", [killed, restarted, paused])
@pytest.mark.parametrize(("number", "limit"), [(2, SMALL), (4, LARGE), (2, LEARNT), (4, LEARNT)])
async def test_nobody_is_refused_below_the_budget_and_the_bound_is_kept(
    tmp_path: Path, number: int, limit: Limit, trouble: Trouble, say: Say
) -> None:
    """A fifth of the budget before, a fifth without Redis, the rest when it is back or not; then all that there is."""
    with RedisServer(tmp_path) as redis:
        async with (
            upstream(limit.throttle) as lookalike,
            replicas(number, limit.settings(settings(lookalike.base_url, store=redis.url))) as proxies,
            asking(lookalike, proxies) as asked,
        ):
            await asked.until(limit.calls // 5)
            await asyncio.sleep(1.2)  # by then each has asked how the budget stands
            await trouble(redis, asked, limit.calls // 5)
            shares = limit.calls // 5 + number * ((limit.calls - limit.calls // 5) * 19 // 20 // number)
            await asked.until(min(shares, limit.readable) - number, together=number)
            refused = asked.statuses.count(429)
            await asyncio.gather(*(asked.miss() for _ in range(limit.calls)))
    most = most_in_a_window(asked.arrivals, limit.per_s)
    say(f"{number} replicas, {limit}, Redis {trouble.__name__}: {refused} refused early, {most} calls in a window")
    assert refused == 0
    assert set(asked.statuses) <= {200, 429}
    assert most <= limit.bound(number)


async def test_a_failover_refuses_nobody_below_the_budget(tmp_path: Path, say: Say) -> None:
    """A copy leads in the place of Redis, which may lack the last calls."""
    limit = SMALL
    with SentinelService(tmp_path) as service:
        async with (
            upstream() as lookalike,
            replicas(2, limit.settings(settings(lookalike.base_url, store=service.url))) as proxies,
            asking(lookalike, proxies) as asked,
        ):
            await asked.until(10)
            await asyncio.sleep(1.2)
            service.leader.kill()
            await asked.while_away(20, seconds=4.0)
            await asked.until(limit.readable - 5)
            refused = asked.statuses.count(429)
            await asyncio.gather(*(asked.miss() for _ in range(limit.calls)))
    most = most_in_a_window(asked.arrivals, limit.per_s)
    say(f"failover: {refused} refused early, {most} calls in a window")
    assert refused == 0
    assert most <= limit.bound(2)


async def test_with_hold_the_budget_is_never_exceeded(tmp_path: Path) -> None:
    """However many ask at once, before and after Redis goes."""
    limit = Limit(20, 30)
    with RedisServer(tmp_path) as redis:
        async with upstream() as lookalike:
            base = budgeted(
                settings(lookalike.base_url, store=redis.url),
                calls=limit.calls,
                per_s=limit.per_s,
                max_wait_s=3.0,
                without_store="hold",
            )
            async with replicas(2, base) as proxies, asking(lookalike, proxies) as asked:
                await asked.until(4)
                redis.kill()
                await asyncio.gather(*(asked.miss() for _ in range(40)))
                assert len(asked.arrivals) == 4, "what Redis granted last nobody knows"
                redis.start()
                await holds(lambda: _counts_together(asked.client, proxies))
                await asyncio.gather(*(asked.miss() for _ in range(40)))
    assert most_in_a_window(asked.arrivals, limit.per_s) <= limit.calls


async def _counts_together(client: aiohttp.ClientSession, proxies: Sequence[HasAdmin]) -> bool:
    return await metric(client, proxies, "ims_proxy_budget_without_store") == 0


async def test_replicas_in_processes_name_it_and_count_together_again(tmp_path: Path) -> None:
    """`/readyz`, `/stats`, `/metrics` and the log name the share while it is the rule; nobody is refused."""
    with RedisServer(tmp_path) as redis:
        async with upstream() as lookalike, AsyncExitStack() as stack:
            processes = []
            for number in range(2):
                (home := tmp_path / str(number)).mkdir()
                given = {"BUDGET__CALLS": "60", "BUDGET__PER_S": "30", "BUDGET__MAX_WAIT_S": str(MAX_WAIT_S)}
                process = ProxyProcess(lookalike.base_url, home, store=redis.url, settings=given)
                await asyncio.to_thread(process.__enter__)
                stack.push_async_callback(asyncio.to_thread, process.__exit__, None, None, None)
                processes.append(process)
            async with asking(lookalike, processes) as asked:
                client = asked.client
                await asked.until(8)
                assert await _counts_together(client, processes)
                redis.kill()
                await asked.while_away(16, seconds=2.0)
                assert await metric(client, processes, "ims_proxy_budget_without_store") == 2
                for process in processes:
                    ready = await told(client, process, "readyz")
                    assert ready["parts"]["budget"] == "without the store: mode share, share 1/2"
                    without = (await told(client, process, "stats"))["budget"]["without_store"]
                    assert without == {"mode": "share", "share": "1/2", "no_calls_for_s": 0.0}
                await asyncio.to_thread(redis.start)
                await holds(lambda: _counts_together(client, processes))
                await asked.until(50)
                assert "budget" not in (await told(client, processes[0], "readyz"))["parts"]
    assert set(asked.statuses) == {200}
    assert most_in_a_window(asked.arrivals, 30.0) <= 60
    for number in range(2):
        log = (tmp_path / str(number) / "proxy.log").read_text()
        assert log.count('"budget_without_store"') == log.count('"budget_store_restored"') == 1


@pytest.mark.parametrize("mode", ["share", "hold"])
async def test_cached_lists_are_answered_though_no_call_may_be_made(tmp_path: Path, mode: str) -> None:
    """With the budget spent and Redis gone, what memory has within its stale windows is given, and no 429.

    The memory is older than it is believed without invalidations, and then older than its lifetime.
    """
    with RedisServer(tmp_path) as redis:
        async with upstream() as lookalike:
            base = settings(lookalike.base_url, store=redis.url, ttl_s=4.0)
            each = budgeted(base, max_wait_s=1.0, calls=6, per_s=600, without_store=mode)
            async with replicas(2, each) as proxies, asking(lookalike, proxies) as asked:

                async def ask_for_cached() -> list[tuple[int, str]]:
                    answers = []
                    for proxy in proxies:
                        url = f"{proxy.url}/v2/images?limit=5&name=cached"
                        async with asked.client.get(url, headers={"X-Auth-Token": TOKEN}) as answer:
                            answers.append((answer.status, answer.headers["Cache-Status"]))
                    return answers

                await ask_for_cached()
                while await asked.miss() != 429:
                    assert len(asked.statuses) < 20
                redis.kill()
                given = []
                for _ in range(6):  # longer than its lifetime
                    given += await ask_for_cached()
                    await asyncio.sleep(1.0)
                assert await asked.miss() == 429
                await asyncio.to_thread(redis.start)
                for _ in range(3):
                    given += await ask_for_cached()
                    await asyncio.sleep(1.0)
    assert [status for status, _ in given] == [200] * len(given), given
    assert any("stale" in cache_status for _, cache_status in given)
