"""The queue before the upstream: who calls next, who is told at once that it can't, and what is left behind."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

from proxy.core.call_context import Priority
from proxy.core.messages import Fields, Request, Response
from proxy.errors import (
    CircuitOpenError,
    RateLimitedError,
    UnauthorizedError,
    UpstreamQueueFullError,
    UpstreamUnreachableError,
)
from proxy.ratelimit.resilience import UpstreamCircuit
from proxy.ratelimit.sliding_window import RateLimit
from tests.support.shielded import OK, THROTTLED, Shielded, turns_pass
from tests.support.waiting import until
from tests.support.windows import most_in_a_window

BROKEN = UpstreamUnreachableError("upstream: broke off in the middle of its answer")


async def closed(shielded: Shielded) -> None:
    """Assert that nothing is left behind, and stop."""
    await turns_pass()
    assert shielded.turns.permits.in_flight == 0
    for priority in Priority:
        assert shielded.metric("queued_calls", priority=priority.label) == 0
    await shielded.turns.close()
    await shielded.limiter.close()


async def test_classes_go_by_rank_and_callers_in_turn() -> None:
    """While one call is under way and no other may be, the rest line up: batch behind readers, readers in turn."""
    shielded = Shielded(most=1)
    shielded.upstream.gate.clear()
    first = shielded.start("first")
    await turns_pass()
    calls = [shielded.start(f"crawl {n}", caller="crawler") for n in range(3)]
    calls += [shielded.start("batch", Priority.BATCH, caller="b"), shielded.start("lookup", caller="c")]
    await turns_pass()
    shielded.upstream.gate.set()
    await asyncio.gather(first, *calls)
    assert shielded.upstream.asked == ["first", "crawl 0", "lookup", "crawl 1", "crawl 2", "batch"]
    await closed(shielded)


async def test_a_write_passes_all_readers() -> None:
    """With every permit taken by reads and a hundred more waiting, a write goes up at once."""
    shielded = Shielded(RateLimit(1000, 60.0), most=2, max_wait_s=600.0)
    shielded.upstream.gate.clear()
    reads = [shielded.start(f"read {n}") for n in range(100)]
    await turns_pass()
    write = shielded.start("write", Priority.WRITE)
    await turns_pass()
    assert shielded.upstream.asked[-1] == "write"
    assert len(shielded.upstream.asked) == 3
    shielded.upstream.gate.set()
    await asyncio.gather(write, *reads)
    await closed(shielded)


async def test_a_write_finds_a_call_that_readers_left() -> None:
    """Readers take nineteen of twenty, the twentieth is a write's."""
    shielded = Shielded(RateLimit(20, 60.0), max_wait_s=1.0)
    readers = await asyncio.gather(*(shielded.get() for _ in range(30)), return_exceptions=True)
    assert [isinstance(each, RateLimitedError) for each in readers].count(True) == 11
    assert await shielded.get("write", Priority.WRITE) is OK
    await closed(shielded)


async def test_who_can_not_be_served_in_time_is_told_at_once() -> None:
    """With the budget gone for a minute a caller that waits five seconds is refused now, and told when to come back."""
    shielded = Shielded(RateLimit(1, 60.0))
    await shielded.get()
    began = time.monotonic()
    with pytest.raises(RateLimitedError) as refused:
        await shielded.get()
    assert time.monotonic() - began < 5.0
    assert 55 < (refused.value.retry_after_s or 0) <= 61
    assert shielded.metric("rejected_calls_total", priority="interactive", reason="wait_too_long") == 1
    await closed(shielded)


async def test_nobody_joins_a_queue_that_is_too_long() -> None:
    """A hundred wait for five calls a second: the last could not be served within five seconds."""
    shielded = Shielded(RateLimit(5, 1.0))
    answers = await asyncio.gather(*(shielded.get() for _ in range(100)), return_exceptions=True)
    served = [each for each in answers if each is OK]
    assert all(each is OK or isinstance(each, RateLimitedError) for each in answers)
    assert 10 <= len(served) <= 30
    await closed(shielded)


async def test_a_caller_that_hangs_up_leaves_nothing_behind() -> None:
    """Cancelled while waiting, or in the very moment of being served, it frees its place and its permit."""
    for moment in range(8):
        shielded = Shielded(RateLimit(3, 60.0), most=2)
        calls = [shielded.start(str(number)) for number in range(3)]
        await turns_pass(moment)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await closed(shielded)
        assert len(shielded.upstream.asked) <= 3


async def test_what_nobody_waits_for_is_not_queued() -> None:
    """Readahead takes a call that is free, or none."""
    shielded = Shielded(RateLimit(10, 60.0))
    taken = await asyncio.gather(
        *(shielded.get("ahead", Priority.PREFETCH, patient=False) for _ in range(10)), return_exceptions=True
    )
    assert len([each for each in taken if each is OK]) == 7
    assert await shielded.get() is OK
    await closed(shielded)


async def test_each_partition_has_its_own_budget() -> None:
    """One partition's crawl costs another nothing."""
    shielded = Shielded(RateLimit(1, 60.0), scope=None)
    await shielded.get(partition="one")
    with pytest.raises(RateLimitedError):
        await shielded.get(partition="one")
    assert await shielded.get(partition="two") is OK
    await closed(shielded)


async def test_a_throttled_call_is_made_again_and_nobody_calls_meanwhile() -> None:
    """After a 429 that tells five a second all wait for a second, and then all are served."""
    shielded = Shielded()
    shielded.upstream.script = [THROTTLED]
    began = time.monotonic()
    first = shielded.start("first")
    await turns_pass()
    others = [shielded.start("other") for _ in range(3)]
    assert await first is OK
    assert time.monotonic() - began >= 1.0
    assert await asyncio.gather(*others) == [OK] * 3
    assert sorted(shielded.upstream.asked) == ["first", "first", "other", "other", "other"]
    assert shielded.metric("throttled_calls_total") == 1
    assert shielded.metric("advertised_limit_calls", policy="user") == 5
    assert shielded.metric("advertised_limit_period_seconds", policy="user") == 1
    await closed(shielded)


async def test_flow_control_of_ims_is_throttling_too() -> None:
    """A 400 with IMG.0060 that does not say for how long is tried again after a pause; another 400 is an answer."""
    flow = Response(400, Fields(), b'{"error":{"message":"Flow control threshold reached","code":"IMG.0060"}}')
    other = Response(400, Fields(), b'{"error":{"message":"Bad marker","code":"IMG.0024"}}')
    shielded = Shielded()
    shielded.upstream.script = [flow, other]
    assert await shielded.get() is other
    assert len(shielded.upstream.asked) == 2
    await closed(shielded)


async def test_a_gate_that_is_closed_for_too_long_is_told() -> None:
    """With Retry-After beyond the caller's patience the answer is ours, not the upstream's, and tells the time."""
    shielded = Shielded()
    shielded.upstream.script = [Response(429, Fields([("Retry-After", "40")]), b"")]
    with pytest.raises(RateLimitedError) as refused:
        await shielded.get()
    assert 35 < (refused.value.retry_after_s or 0) <= 40
    queues = shielded.turns.state()
    assert (queues.budgets, queues.cooling_down, queues.waiting) == (1, 1, 0)
    assert 35 < queues.cooldown_s <= 40
    assert (refused.value.status, refused.value.code) == (429, "PROXY.0429")
    await closed(shielded)


@pytest.mark.parametrize("said", [BROKEN, *(Response(status, Fields(), b"") for status in (502, 503, 504))])
async def test_what_failed_on_the_way_is_tried_again(said: Response | Exception) -> None:
    """A connection error, a truncated body, a 502, 503 or 504 to a read; each try counts."""
    shielded = Shielded(RateLimit(2, 60.0))
    shielded.upstream.script = [said]
    assert await shielded.get() is OK
    with pytest.raises(RateLimitedError):
        await shielded.get()
    await closed(shielded)


@pytest.mark.parametrize("retries", [0, 1, 3])
async def test_how_often_it_is_tried_again_is_the_configuration_s(retries: int) -> None:
    """So often, and then its failure is the caller's."""
    shielded = Shielded(retries=retries)
    shielded.upstream.script = [BROKEN] * 9
    with pytest.raises(UpstreamUnreachableError):
        await shielded.get()
    assert len(shielded.upstream.asked) == 1 + retries
    await closed(shielded)


async def test_an_outage_is_logged_when_it_begins_and_when_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    """One line says why the upstream is left alone, another that it is back, however many calls failed."""
    caplog.set_level(logging.INFO, logger="ims_proxy")
    now = [0.0]
    shielded = Shielded(clock=lambda: now[0], breaker=UpstreamCircuit(max_failures=2), retries=0)
    shielded.upstream.script = [BROKEN, Response(503, Fields(), b""), BROKEN, OK]
    for _ in range(len(shielded.upstream.script)):
        await asyncio.gather(shielded.get(), return_exceptions=True)
        now[0] += 60.0
    said = [(each.getMessage(), each.__dict__["event_fields"]) for each in caplog.records]
    server = "http://image.test"
    assert said == [
        ("circuit_open", {"dependency": "upstream", "server": server, "reason": "status 503"}),
        ("circuit_closed", {"dependency": "upstream", "server": server}),
    ]
    await closed(shielded)


async def test_upstream_that_is_back_is_noticed_without_callers() -> None:
    shielded = Shielded(breaker=UpstreamCircuit(max_failures=2), retries=0)
    shielded.upstream.script = [BROKEN, BROKEN, BROKEN, OK]
    for _ in range(2):
        await asyncio.gather(shielded.get(), return_exceptions=True)
    assert shielded.limiter.circuit_open_s() is not None
    await until(lambda: shielded.limiter.circuit_open_s() is None)
    assert shielded.upstream.asked[2:] == ["/"] * 2
    await closed(shielded)


async def test_upstream_that_answers_5xx_is_called_again_by_the_next_caller_once_it_replies_to_a_probe() -> None:
    failing = Response(503, Fields(), b"")
    shielded = Shielded(breaker=UpstreamCircuit(max_failures=2), retries=0)
    shielded.upstream.script = [failing, failing, OK, failing, OK]
    for _ in range(2):
        await shielded.get()
    await until(lambda: len(shielded.upstream.asked) == 3)
    await until(lambda: shielded.limiter.circuit_open_s() == 0)
    assert await shielded.get() is failing
    with pytest.raises(CircuitOpenError):
        await shielded.get()
    await until(lambda: len(shielded.upstream.asked) == 5)
    assert await shielded.get() is OK
    assert shielded.limiter.circuit_open_s() is None
    await closed(shielded)


async def test_probe_counts_towards_the_budget() -> None:
    shielded = Shielded(RateLimit(2, 600.0), breaker=UpstreamCircuit(max_failures=2), retries=0)
    shielded.upstream.script = [BROKEN, BROKEN]
    for _ in range(2):
        await asyncio.gather(shielded.get(priority=Priority.WRITE), return_exceptions=True)
    await asyncio.sleep(1.5)  # longer than the first pause
    assert len(shielded.upstream.asked) == 2
    await closed(shielded)


async def test_how_much_is_tolerated_is_the_configuration_s() -> None:
    """After two failures in a row the third call is not made."""
    shielded = Shielded(breaker=UpstreamCircuit(max_failures=2))
    shielded.upstream.script = [BROKEN] * 2
    for expected in (UpstreamUnreachableError, UpstreamUnreachableError, CircuitOpenError):
        with pytest.raises(expected):
            await shielded.get(method="POST")
    await closed(shielded)


@pytest.mark.parametrize(
    ("method", "said"),
    [
        pytest.param("POST", BROKEN, id="a POST that may have arrived"),
        pytest.param("PATCH", Response(503, Fields(), b""), id="a PATCH that failed"),
        pytest.param("GET", Response(401, Fields(), b""), id="a 401, which may lock an access key"),
        pytest.param("GET", Response(500, Fields(), b""), id="a 500, which is an answer"),
    ],
)
async def test_what_is_not_tried_again(method: str, said: Response | Exception) -> None:
    """One call, and its outcome is the caller's."""
    shielded = Shielded()
    shielded.upstream.script = [said]
    outcome = await asyncio.gather(shielded.get(method=method), return_exceptions=True)
    assert outcome[0] is said
    assert len(shielded.upstream.asked) == 1
    await closed(shielded)


async def test_a_failing_upstream_is_left_alone_and_probed() -> None:
    """After ten failures callers are told at once; after the pause one call goes through, and all is well again."""
    now = [0.0]
    shielded = Shielded(clock=lambda: now[0])
    shielded.upstream.script = [BROKEN] * 10
    for _ in range(10):
        with pytest.raises((UpstreamUnreachableError, CircuitOpenError)):
            await shielded.get(method="POST")
    with pytest.raises(CircuitOpenError) as refused:
        await shielded.get()
    assert (refused.value.status, refused.value.retry_after_s) == (503, 1.0)
    assert len(shielded.upstream.asked) == 10
    assert shielded.limiter.circuit_open_s() == 1.0
    assert shielded.metric("rejected_calls_total", priority="interactive", reason="circuit_open") == 1
    now[0] += 1.0
    shielded.upstream.gate.clear()
    probe = shielded.start("probe")
    await turns_pass()
    with pytest.raises(CircuitOpenError):
        await shielded.get()
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)
    shielded.upstream.gate.set()
    assert await shielded.get("next probe") is OK
    assert shielded.limiter.circuit_open_s() is None
    assert await shielded.get() is OK
    await closed(shielded)


async def test_retries_are_a_share_of_the_traffic() -> None:
    """An upstream that fails every call gets few more than were asked for."""
    shielded = Shielded()
    shielded.upstream.script = [Response(503, Fields(), b"") if number % 9 else OK for number in range(400)]
    for _ in range(60):
        await shielded.get()
    assert len(shielded.upstream.asked) <= 60 + 10 + 60 / 5
    await closed(shielded)


async def test_a_small_body_is_sent_again_and_a_large_one_is_not() -> None:
    """A throttled PATCH is repeated with its body; an upload gets the upstream's own words."""

    def request(size: int) -> Request:
        async def once() -> object:
            yield b"x" * size

        fields = Fields([("Content-Length", str(size))])
        return Request("PATCH", "/v2/images/i", fields, "id", once())  # type: ignore[arg-type]

    for size, status, bodies in ((1000, 200, 2), (1 << 20, 429, 1)):
        shielded = Shielded()
        shielded.upstream.script = [THROTTLED]
        async with shielded.limiter.stream(request(size)) as exchange:
            assert exchange.status == status
            body = b"".join([chunk async for chunk in exchange.chunks])
        assert body == (OK.body if status == 200 else THROTTLED.body)
        assert shielded.upstream.bodies == [b"x" * size] * bodies
        await closed(shielded)


async def test_the_calls_under_way_stay_below_the_ceiling() -> None:
    """However many ask, at most as many as there are connections are under way."""
    shielded = Shielded(most=4)
    await asyncio.gather(*(shielded.get() for _ in range(200)))
    assert shielded.upstream.most <= 4
    await closed(shielded)


async def test_full_pressure_never_exceeds_the_budget_in_any_window() -> None:
    """Fifty callers for two seconds at forty calls in half a second: every window holds, and one is nearly used up."""
    shielded = Shielded(RateLimit(40, 0.5), max_wait_s=1.0)
    arrivals: list[float] = []
    until = time.monotonic() + 2.0
    fetch = shielded.upstream.fetch

    async def logged(request: Request) -> object:
        arrivals.append(time.monotonic())
        return await fetch(request)

    shielded.upstream.fetch = logged  # type: ignore[method-assign, assignment]

    async def caller(name: str) -> None:
        while time.monotonic() < until or len(arrivals) < 100:
            await asyncio.gather(shielded.get(caller=name), return_exceptions=True)

    async with asyncio.timeout(60):
        await asyncio.gather(*(caller(str(number)) for number in range(50)))
    assert 30 < most_in_a_window(arrivals, 0.5) <= 40
    await closed(shielded)


async def test_what_may_not_be_sent_any_more_takes_nothing_from_others() -> None:
    """Who is refused when its turn has come leaves its permit to the next, and is no failure of the upstream's."""
    shielded = Shielded(most=1, breaker=UpstreamCircuit(max_failures=1))
    shielded.upstream.gate.clear()
    first = shielded.start("first")
    await turns_pass()

    def refused() -> None:
        raise UnauthorizedError("caller: no valid key")

    gone = [
        asyncio.create_task(shielded.limiter.fetch(Request("GET", "gone", Fields(), "id", before_send=refused)))
        for _ in range(3)
    ]
    last = shielded.start("last")
    await turns_pass()
    shielded.upstream.gate.set()
    got = await asyncio.gather(first, *gone, last, return_exceptions=True)
    assert [type(each) for each in got] == [Response, *[UnauthorizedError] * 3, Response]
    assert shielded.upstream.asked == ["first", "last"]
    assert shielded.limiter.circuit_open_s() is None
    await closed(shielded)


async def test_caller_who_could_not_be_served_in_time_by_a_slow_upstream_is_told_so_at_once() -> None:
    """503 and not 429: no budget is spent, but as many calls are under way as there may be, and they take long."""
    now = [0.0]
    shielded = Shielded(most=2, max_wait_s=5.0, clock=lambda: now[0])
    shielded.upstream.gate.clear()
    under_way = [shielded.start(f"slow {number}") for number in range(2)]
    await turns_pass()
    now[0] += 4.0
    waiting = [shielded.start("waits", caller=str(number)) for number in range(2)]
    await turns_pass()
    with pytest.raises(UpstreamQueueFullError) as refused:
        await shielded.get("in vain")
    assert refused.value.status == 503
    assert refused.value.retry_after_s == pytest.approx((2 + 1) * 4.0 / 2)
    assert "2 calls under way and 2 waiting" in refused.value.message
    shielded.upstream.gate.set()
    assert await asyncio.gather(*under_way, *waiting) == [OK] * 4
    assert await shielded.get("later") is OK
    await closed(shielded)


async def test_write_is_not_refused_for_reads_that_wait() -> None:
    now = [0.0]
    shielded = Shielded(most=1, max_wait_s=5.0, clock=lambda: now[0])
    shielded.upstream.gate.clear()
    under_way = shielded.start("slow")
    await turns_pass()
    now[0] += 60.0
    write = shielded.start("write", Priority.WRITE)
    await turns_pass()
    shielded.upstream.gate.set()
    assert list(await asyncio.gather(under_way, write)) == [OK, OK]
    await closed(shielded)
