"""The circuit breaker before Redis: what a request waits, and what counts as evidence that the store is away."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import copy_context

import pytest

from proxy.errors import StoreRefusedError, StoreTimeoutError, StoreUnavailableError
from proxy.observability.event_loop import LoopClock
from proxy.storage.circuit_breaker import MAX_SILENT_WAITS, CircuitBreaker, begin_request
from tests.support.waiting import until

TIMEOUT_S = 0.1
WITHIN_S = 60.0


class Store:
    """A store that does what it is told to, behind a breaker."""

    def __init__(self) -> None:
        self.failed: list[str] = []
        self.probes = 0
        self.resets = 0
        self.up = True
        self.reset_error: Exception | None = None
        self.gate = asyncio.Event()
        self.loop_clock = LoopClock()
        self.breaker = CircuitBreaker(
            timeout_s=TIMEOUT_S,
            loop_clock=self.loop_clock,
            probe=self._probe,
            reset=self._reset,
            on_failure=self.failed.append,
        )

    async def reply(self) -> str:
        return "reply"

    async def hang(self) -> str:
        await self.gate.wait()
        return "late reply"

    async def reset_connection(self) -> str:
        raise StoreUnavailableError("redis: ConnectionError")

    async def refuse(self) -> str:
        raise StoreRefusedError("redis: refused a command")

    async def time_out_in_client(self) -> str:
        raise StoreTimeoutError("redis: no reply in time")

    async def fails(self, command: Callable[[], Awaitable[str]]) -> None:
        with pytest.raises(StoreUnavailableError):
            await self.breaker.call("get", command)  # type: ignore[arg-type]

    async def _probe(self) -> None:
        self.probes += 1
        if not self.up:
            raise StoreUnavailableError("redis: ConnectionError")

    async def _reset(self) -> None:
        self.resets += 1
        if self.reset_error is not None:
            raise self.reset_error


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    store = Store()
    yield store
    store.gate.set()
    await store.breaker.close()
    store.loop_clock.stop()


async def test_replies_pass_through(store: Store) -> None:
    assert await store.breaker.call("get", store.reply) == "reply"
    assert store.failed == []


async def test_reply_that_makes_no_sense_is_no_reason_to_fail_a_request(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """The request goes on without the store, which is there."""

    async def misread() -> str:
        raise KeyError("granted")

    await store.fails(misread)
    assert store.failed == ["get"]
    assert not store.breaker.is_open
    assert "store_reply_not_understood" in caplog.text
    assert await store.breaker.call("get", store.reply) == "reply"


async def test_one_silent_wait_ends_one_call_and_condemns_nothing(store: Store) -> None:
    await store.fails(store.hang)
    assert store.failed == ["get"]
    assert not store.breaker.is_open
    assert await store.breaker.call("get", store.reply) == "reply"


async def test_silent_waits_in_a_row_open_it(store: Store) -> None:
    store.up = False
    for _ in range(MAX_SILENT_WAITS):
        assert not store.breaker.is_open
        await store.fails(store.hang)
    assert store.breaker.is_open


async def test_reply_of_any_kind_between_silent_waits_keeps_it_closed(store: Store) -> None:
    for command in (store.reply, store.refuse):
        for _ in range(2 * MAX_SILENT_WAITS):
            await store.fails(store.hang)
            await asyncio.gather(store.breaker.call("get", command), return_exceptions=True)
    assert not store.breaker.is_open


async def test_late_reply_counts_as_a_reply(store: Store) -> None:
    for _ in range(2 * MAX_SILENT_WAITS):
        await store.fails(store.hang)
        store.gate.set()
        await asyncio.sleep(0.01)
        store.gate.clear()
    assert not store.breaker.is_open


async def test_time_limit_of_the_client_is_no_refused_connection(store: Store) -> None:
    await store.fails(store.time_out_in_client)
    assert not store.breaker.is_open


async def test_broken_connection_opens_it_at_once_and_a_probe_closes_it(store: Store) -> None:
    store.up = False
    await store.fails(store.reset_connection)
    assert store.breaker.is_open
    store.up = True
    await until(lambda: not store.breaker.is_open)
    assert await store.breaker.call("get", store.reply) == "reply"


async def test_nobody_waits_or_asks_while_it_is_open(store: Store) -> None:
    store.up = False
    await store.fails(store.reset_connection)
    asked = len(store.failed)
    for _ in range(20):
        await store.fails(store.hang)
    assert len(store.failed) == asked


async def test_store_is_probed_without_callers_until_it_is_back(store: Store) -> None:
    store.up = False
    await store.fails(store.reset_connection)
    await until(lambda: store.probes >= 4)
    assert store.breaker.is_open
    assert store.resets >= 3, "a connection that may be dead is not used for the next probe"
    store.up = True
    await until(lambda: not store.breaker.is_open)


async def test_blocked_event_loop_is_not_taken_for_silence(store: Store) -> None:
    async def answer_soon() -> str:
        await asyncio.sleep(TIMEOUT_S / 4)
        return "reply"

    calls = [asyncio.create_task(store.breaker.call("get", answer_soon)) for _ in range(MAX_SILENT_WAITS)]
    await asyncio.sleep(0)
    time.sleep(5 * TIMEOUT_S)  # noqa: ASYNC251 - that the loop stands still is what is tested
    assert await asyncio.gather(*calls) == ["reply"] * MAX_SILENT_WAITS
    assert store.failed == []


async def test_request_waits_for_the_store_once_in_all(store: Store) -> None:
    begin_request()
    await store.fails(store.hang)
    began = len(store.failed)
    await store.fails(store.reply)
    assert len(store.failed) == began, "a call that was not begun is no failure of the store"


async def test_call_that_must_run_is_begun_by_a_request_that_has_waited(store: Store) -> None:
    begin_request()
    await store.fails(store.hang)
    ran = asyncio.Event()

    async def put() -> None:
        ran.set()

    with pytest.raises(StoreUnavailableError):
        await store.breaker.call("put", put, must_run=True)
    async with asyncio.timeout(WITHIN_S):
        await ran.wait()


async def test_explicit_time_limit_is_no_part_of_the_request_s(store: Store) -> None:
    begin_request()
    await store.fails(store.hang)
    assert await store.breaker.call("get", store.reply, timeout_s=TIMEOUT_S) == "reply"


async def test_requests_have_time_limits_of_their_own(store: Store) -> None:
    async def request() -> str:
        begin_request()
        return await store.breaker.call("get", store.reply)

    begin_request()
    await store.fails(store.hang)
    assert await asyncio.create_task(request(), context=copy_context()) == "reply"


async def test_result_that_nobody_waits_for_any_more_is_handed_on(store: Store) -> None:
    handed_on: list[str] = []

    async def release(result: str) -> None:
        handed_on.append(result)

    with pytest.raises(StoreUnavailableError):
        await store.breaker.call("claim", store.hang, on_late_result=release)
    hung_up = asyncio.create_task(store.breaker.call("claim", store.hang, on_late_result=release))
    await asyncio.sleep(0)
    hung_up.cancel()
    await asyncio.gather(hung_up, return_exceptions=True)
    store.gate.set()
    await until(lambda: handed_on == ["late reply"] * 2)


async def test_caller_that_hangs_up_says_nothing_about_the_store(store: Store) -> None:
    call = asyncio.create_task(store.breaker.call("get", store.hang))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert store.failed == []
    assert not store.breaker.is_open


async def test_outage_is_logged_when_it_begins_and_when_it_ends(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="ims_proxy")
    store.up = False
    await store.fails(store.reset_connection)
    await until(lambda: store.probes >= 2)
    store.up = True
    await until(lambda: not store.breaker.is_open)
    assert [record.getMessage() for record in caplog.records] == ["circuit_open", "circuit_closed"]
    fields = caplog.records[0].__dict__["event_fields"]
    assert fields == {"dependency": "store", "reason": "redis: ConnectionError"}


async def test_commands_that_hang_are_given_up_when_silence_opens_it(store: Store) -> None:
    store.up = False
    waiting = asyncio.create_task(store.breaker.call("get", store.hang, timeout_s=WITHIN_S))
    for _ in range(MAX_SILENT_WAITS):
        await store.fails(store.hang)
    async with asyncio.timeout(WITHIN_S):
        with pytest.raises(StoreUnavailableError):
            await waiting


@pytest.mark.parametrize("hangs", [False, True])
async def test_store_is_found_back_although_its_dead_connections_could_not_be_closed(
    store: Store, *, hangs: bool
) -> None:
    """The client raises where a connection by TLS takes too long to close."""
    store.up, store.reset_error = False, TimeoutError()
    if hangs:
        while not store.breaker.is_open:
            await store.fails(store.hang)
    else:
        await store.fails(store.reset_connection)
    await until(lambda: store.resets > 1)
    store.up = True
    await until(lambda: not store.breaker.is_open)
