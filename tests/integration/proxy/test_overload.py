"""An upstream that hangs while callers crowd in: hits go on, queues end, and who comes in vain is told at once."""

from __future__ import annotations

import asyncio
from typing import Any

from proxy.demo.app import ImsLookalike, RecordedCall
from tests.support.running import a_proxy
from tests.support.waiting import until

CONNECTIONS = 8
MISSES = 100


async def test_hits_are_answered_while_misses_wait_and_the_queue_has_an_end(upstream: ImsLookalike) -> None:
    hanging = 0
    gate = asyncio.Event()

    async def hang(call: RecordedCall) -> None:
        nonlocal hanging
        hanging += 1
        await gate.wait()

    limits: dict[str, dict[str, Any]] = {"upstream": {"max_connections": CONNECTIONS}, "budget": {"max_wait_s": 2.0}}
    async with a_proxy(upstream.base_url, **limits) as proxy:
        assert (await proxy.client.ask("/v2/images?limit=5")).status == 200
        upstream.response_hook = hang
        misses = [
            asyncio.create_task(proxy.client.ask(f"/v2/images?limit=5&name=missing-{number}"))
            for number in range(MISSES)
        ]
        await until(lambda: hanging == CONNECTIONS)
        for number in range(100):
            hit = await proxy.client.ask(f"/v2/images?limit={1 + number % 5}")
            assert hit.status == 200
            assert hit.hit
        assert hanging == CONNECTIONS
        assert not any(miss.done() and miss.result().status == 200 for miss in misses)

        async def is_told_at_once() -> bool:
            """Return whether a miss that comes now is refused, while others wait."""
            answer = await proxy.client.ask("/v2/images?limit=5&name=one-more")
            waiting = sum(not miss.done() for miss in misses)
            return answer.status == 503 and "Retry-After" in answer.fields and waiting > 0

        await until(is_told_at_once)
        gate.set()
        statuses = [answer.status for answer in await asyncio.gather(*misses)]
        assert statuses.count(200) >= CONNECTIONS
        assert set(statuses) <= {200, 503}
        assert (await proxy.client.ask("/v2/images?limit=5&name=afterwards")).status == 200
