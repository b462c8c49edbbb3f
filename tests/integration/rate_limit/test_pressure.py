"""Four replicas on one Redis at full pressure, by the upstream's log; `make soak` runs it for longer, in processes."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from proxy.demo.app import ImsLookalike, RecordedCall
from tests.conftest import Say
from tests.support import trace
from tests.support.proxy import ProxyProcess
from tests.support.redis import RedisServer
from tests.support.replicas import replicas, settings
from tests.support.throttled_upstreams import budgeted, upstream
from tests.support.windows import most_in_a_window

PRESSURE_S = float(os.environ.get("IMS_TEST_PRESSURE_S", "3"))
CONNECT_S = 2.0  # what a call may take on its way counts, and a busy machine stands still for a second
QUIET_S = CONNECT_S + 3.0  # after Redis died: what may be on its way, and a window
CALLS = 20
WITHIN_S = 60.0


class Pressure:
    """Callers that ask for ever new lists, in turn at each of several replicas; when each call arrived upstream."""

    def __init__(self, lookalike: ImsLookalike, urls: Sequence[str]) -> None:
        self.urls = urls
        self.arrivals: list[float] = []
        self.statuses: list[int] = []
        lookalike.response_hook = self._log

    async def _log(self, _: RecordedCall) -> None:
        self.arrivals.append(time.monotonic())

    def since(self, moment: float) -> int:
        """Return how many calls arrived after *moment*, by the monotonic clock."""
        return sum(at > moment for at in self.arrivals)

    async def run(self, *, until: Callable[[], bool], callers: int) -> None:
        """Ask until that holds."""
        token = next(iter(trace.TOKENS))
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:

            async def caller(number: int) -> None:
                count = 0
                while not until():
                    url = self.urls[number % len(self.urls)]
                    count += 1
                    query = f"limit=5&name={number}-{count}"
                    async with client.get(f"{url}/v2/images?{query}", headers={"X-Auth-Token": token}) as answer:
                        await answer.read()
                        self.statuses.append(answer.status)
                    if answer.status == 429:
                        await asyncio.sleep(0.05)

            await asyncio.gather(*(caller(number) for number in range(callers)))


@asynccontextmanager
async def four(upstream_url: str, redis: RedisServer, directory: Path, mode: str) -> AsyncIterator[list[str]]:
    """Run four replicas with one budget and give their URLs: in this process, or in their own where there is time.

    Without Redis they go by *mode*.
    """
    if PRESSURE_S < 10:
        base = settings(upstream_url, store=redis.url)
        base = base.model_copy(update={"upstream": base.upstream.model_copy(update={"connect_timeout_s": CONNECT_S})})
        limited = budgeted(base, calls=CALLS, per_s=1.0, scope="upstream", max_wait_s=2.0, without_store=mode)
        async with replicas(4, limited) as proxies:
            yield [proxy.url for proxy in proxies]
        return
    budget = {"CALLS": str(CALLS), "PER_S": "1", "SCOPE": "upstream", "MAX_WAIT_S": "2", "WITHOUT_STORE": mode}
    environment = {f"BUDGET__{name}": value for name, value in budget.items()}
    environment |= {"UPSTREAM__CONNECT_TIMEOUT_S": str(CONNECT_S)}
    async with AsyncExitStack() as stack:
        processes = []
        for number in range(4):
            (home := directory / str(number)).mkdir()
            process = ProxyProcess(upstream_url, home, store=redis.url, settings=environment)
            await asyncio.to_thread(process.__enter__)
            stack.push_async_callback(asyncio.to_thread, process.__exit__, None, None, None)
            processes.append(process.url)
        yield processes


@pytest.mark.parametrize(
    ("killed", "mode", "bound"),
    [(False, "share", CALLS), (True, "hold", CALLS), (True, "share", CALLS + 3 * CALLS // 4)],
    ids=["redis stays", "redis dies half way, hold", "redis dies half way, share"],
)
async def test_four_replicas_never_exceed_one_budget(
    tmp_path: Path, killed: bool, mode: str, bound: int, say: Say
) -> None:
    """At full pressure no window sees more than twenty calls, Redis or no Redis, and most of them see that many.

    With shares there may be more in the window in which Redis dies, up to the stated bound.
    """
    seconds = max(PRESSURE_S, 3 + QUIET_S + 2) if killed else PRESSURE_S
    with RedisServer(tmp_path) as redis:
        async with upstream(latency_s=0.01) as lookalike, four(lookalike.base_url, redis, tmp_path, mode) as urls:
            await asyncio.sleep(0.5)
            pressure = Pressure(lookalike, urls)
            began = time.monotonic()
            died = began

            def over() -> bool:
                """Return whether the time is up, and there were as many calls as it takes to say something."""
                passed_s = time.monotonic() - began
                enough = len(pressure.arrivals) >= CALLS and pressure.since(died) > 0
                return passed_s >= seconds and (enough or passed_s >= WITHIN_S)

            run = asyncio.create_task(pressure.run(until=over, callers=40))
            if killed:
                await asyncio.sleep(min(3.0, seconds / 2) if PRESSURE_S < 10 else seconds / 2)
                redis.kill()
                died = time.monotonic()
            await run
            seconds = time.monotonic() - began
    most = most_in_a_window(pressure.arrivals, 1.0)
    say(f"{len(pressure.arrivals)} calls in {seconds:.1f}s, at most {most} in any second")
    assert most <= bound
    assert not {status for status in pressure.statuses if status not in (200, 429)}
    assert len(pressure.arrivals) >= CALLS
    if killed:
        after = pressure.since(died)
        say(f"without Redis: {after} calls from the replicas' parts in {seconds - (died - began):.1f}s")
        assert after > 0
