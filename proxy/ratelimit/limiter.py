"""The rate limiter: wraps an upstream, and keeps its calls within the limits, fair between callers.

A call passes the circuit breaker, gets a slot (rate limit, cooldown, connection permit) and is sent; its answer updates
the advertised limits. It may then be retried; a retry counts and waits for a slot like any other call.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from proxy.core.call_context import CallContext, Priority
from proxy.core.messages import USER_AGENT, Fields, Request, Response, StreamedResponse, Upstream
from proxy.core.values import immutable
from proxy.core.write_effect import SAFE_METHODS
from proxy.errors import (
    BrokenBodyError,
    CircuitOpenError,
    ProxyError,
    UpstreamTimeoutError,
    UpstreamUnreachableError,
)
from proxy.http.body_buffering import buffer_beginning, make_replayable
from proxy.observability.logging import log_event
from proxy.ratelimit.memory_store import StoreOutage
from proxy.ratelimit.metrics import RateLimitMetrics
from proxy.ratelimit.queue import CallQueue, QueueState, Slot
from proxy.ratelimit.resilience import CLOSED_CIRCUIT, TRANSIENT_STATUSES, RetryBudget, UpstreamCircuit, backoff_s
from proxy.ratelimit.sliding_window import LimitUsage
from proxy.ratelimit.upstream_limits import AdvertisedLimits, parse_advertised_limits

_PROBE_S: Final = 60.0
_MIN_PAUSE_S: Final = 0.05
_PROBE: Final = "probe"  # the partition whose budget probes count towards, where each has its own
_PROBE_FIELDS: Final = Fields([("User-Agent", USER_AGENT)])
_MAX_SCOPES: Final = 10_000
_DEFAULT_COOLDOWN_S: Final = 60.0  # the longest that an upstream which does not say for how long is left alone
_STATUSES_WITH_DETAILS: Final = frozenset({400, 429})  # answers whose body may tell a limit


@dataclass(slots=True)
class _PendingCall:
    """One request and its attempts. With *may_retry* it may be sent again, with *is_safe* even if it has arrived."""

    request: Request
    scope: str
    deadline: float
    may_retry: bool
    is_safe: bool
    attempts: int = 0


@dataclass(slots=True)
class _Attempt:
    """One attempt. *advertised* is what its answer said of limits, *failure* why it counts as no answer.

    *closes_circuit* says whether its success closes the circuit breaker, or only lets the next call through.
    """

    advertised: AdvertisedLimits = field(default_factory=AdvertisedLimits)
    failure: str | None = "no answer"
    closes_circuit: bool = True


@immutable
class RateLimitState:
    """The limiter's state: the tightest rate limit, the queues, the breaker, the calls in progress.

    *circuit_open_s* is None while the breaker is closed, *store_outage* while replicas count together.
    """

    usage: LimitUsage | None
    queues: QueueState
    circuit_open_s: float | None
    concurrency_limit: int
    in_flight: int
    store_outage: StoreOutage | None


class RateLimiter:
    """An `Upstream` that calls *upstream*; a call counts towards the budget of its partition, or of *scope* for all.

    A failed call is retried *retries* times at most; *breaker* decides when no calls are made. *now* gives epoch
    seconds, *clock* is monotonic, *rng* gives a number from 0 to 1. The log names the upstream by *url*.
    """

    def __init__(
        self,
        upstream: Upstream,
        queue: CallQueue,
        *,
        url: str,
        max_wait_s: float,
        scope: str | None,
        metrics: RateLimitMetrics,
        clock: Callable[[], float],
        now: Callable[[], float],
        rng: Callable[[], float],
        retries: int = 2,
        breaker: UpstreamCircuit = CLOSED_CIRCUIT,
    ) -> None:
        self._upstream = upstream
        self._url = url
        self._queue = queue
        self._max_retries = retries
        self._max_wait_s = max_wait_s
        self._scope = scope
        self._metrics = metrics
        self._clock = clock
        self._now = now
        self._rng = rng
        self._breaker = breaker
        self._failed_with_status = False  # the upstream replied to the latest call that failed
        self._probing: asyncio.Task[None] | None = None
        self._retries = RetryBudget()
        self._throttled: dict[str, int] = {}  # refusals in a row that did not say for how long

    async def fetch(self, request: Request) -> Response:
        """See `Upstream.fetch`; raises `RateLimitedError` or `CircuitOpenError` if no call is made."""
        trial = self._make_call(request, replays=request.body is None)
        while True:
            try:
                async with self._attempt(trial) as call:
                    response = await self._upstream.fetch(trial.request)
                    self._record_response(call, response.status, response.fields, response.body)
            except (UpstreamUnreachableError, UpstreamTimeoutError) as error:
                if not await self._retry_after_error(trial, error.code):
                    raise
                continue
            if not await self._retry_after_response(trial, call, response.status):
                return response

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[StreamedResponse]:
        request, replays = await make_replayable(request)
        call = self._make_call(request, replays=replays)
        async with AsyncExitStack() as stack:
            yield await self._stream(call, stack)

    async def close(self) -> None:
        """Stop probing the upstream."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)

    def is_low(self, partition: str) -> bool:
        """Whether the budget of *partition* is low."""
        return self._queue.is_low(self._scope or partition)

    def circuit_open_s(self) -> float | None:
        """Return how long the breaker stays open, seconds; None if it is closed."""
        return max(0.0, self._breaker.open_until - self._clock()) if self._breaker.is_open else None

    async def _stream(self, trial: _PendingCall, stack: AsyncExitStack) -> StreamedResponse:
        while True:
            async with AsyncExitStack() as attempt:
                try:
                    async with self._attempt(trial) as call:
                        given = await attempt.enter_async_context(self._upstream.stream(trial.request))
                        text, given = (
                            await buffer_beginning(given) if given.status in _STATUSES_WITH_DETAILS else (b"", given)
                        )
                        self._record_response(call, given.status, given.fields, text)
                except (UpstreamUnreachableError, UpstreamTimeoutError) as error:
                    if not await self._retry_after_error(trial, error.code):
                        raise
                    continue
                if await self._retry_after_response(trial, call, given.status):
                    continue
                await stack.enter_async_context(attempt.pop_all())
                return given

    def _make_call(self, request: Request, *, replays: bool) -> _PendingCall:
        context = request.context
        return _PendingCall(
            request,
            scope=self._scope or context.partition,
            deadline=self._clock() + self._max_wait_s,
            may_retry=replays and context.may_wait,
            # A DELETE may be sent again too (RFC 9110 §9.2.2), but where the first one arrived the second is told 404,
            # and then neither the caller nor the proxy knows that it was done.
            is_safe=request.method in SAFE_METHODS,
        )

    @asynccontextmanager
    async def _attempt(self, trial: _PendingCall) -> AsyncIterator[_Attempt]:
        """Wait for a slot, make the call, and report its outcome."""
        self._check_circuit(trial, lock=False)
        slot = await self._queue.acquire(trial.scope, trial.request.context, deadline=trial.deadline)
        call = _Attempt()
        try:
            if trial.request.before_send is not None:
                trial.request.before_send()
            self._check_circuit(trial, lock=True)
            self._retries = self._retries.record_call() if trial.attempts == 0 else self._retries
            trial.attempts += 1
            try:
                yield call
            except (asyncio.CancelledError, GeneratorExit, BrokenBodyError):  # none of these is the upstream's doing
                self._breaker = self._breaker.record_abandoned(now=self._clock())
                raise
            except ProxyError as error:
                self._failed_with_status = False
                self._record_failure(str(error))
                raise
            if call.failure:
                self._failed_with_status = True
                self._record_failure(call.failure)
            elif call.closes_circuit:
                self._record_success()
            else:
                self._breaker = self._breaker.half_open(now=self._clock())
        finally:
            self._release_slot(slot, call)

    def _check_circuit(self, call: _PendingCall, *, lock: bool) -> None:
        """Pass the circuit breaker, as its probe if need be; raises `CircuitOpenError` if it is open."""
        left_s, breaker = self._breaker.try_call(probe_s=_PROBE_S, now=self._clock())
        if left_s > 0:
            self._metrics.refused.labels(call.request.context.priority.label, "circuit_open").inc()
            raise CircuitOpenError("upstream: failed so often that it is left alone", retry_after_s=left_s)
        if lock:
            self._breaker = breaker

    def _record_response(self, call: _Attempt, status: int, fields: Fields, body: bytes) -> None:
        call.failure = f"status {status}" if status in TRANSIENT_STATUSES else None
        call.advertised = parse_advertised_limits(status, fields, body, now=self._now())

    def _record_failure(self, reason: str) -> None:
        before, self._breaker = self._breaker, self._breaker.record_failure(now=self._clock())
        if self._breaker.is_open and not before.is_open:
            log_event("circuit_open", level=logging.WARNING, dependency="upstream", server=self._url, reason=reason)
        if self._breaker.is_open and (self._probing is None or self._probing.done()):
            self._probing = asyncio.create_task(self._probe_until_success())

    async def _probe_until_success(self) -> None:
        """Probe the upstream after each pause, with or without callers, until it replies.

        If calls failed for lack of a reply, the breaker closes then. If they were answered 5xx, the next caller's call
        is the probe: the versions document may be there when lists are not.
        """
        context = CallContext(Priority.REVALIDATION, partition=_PROBE, may_wait=False)
        request = Request("GET", "/", _PROBE_FIELDS, request_id="", context=context)
        while True:
            await asyncio.sleep(max(_MIN_PAUSE_S, self._breaker.open_until - self._clock()))
            if not self._breaker.is_open:
                return
            if self._breaker.open_until > self._clock():
                continue  # a caller was the probe
            with suppress(ProxyError):
                async with self._attempt(self._make_call(request, replays=False)) as call:
                    call.closes_circuit = not self._failed_with_status
                    response = await self._upstream.fetch(request)
                    self._record_response(call, response.status, response.fields, b"")
                if call.failure is None:
                    return

    def _record_success(self) -> None:
        before, self._breaker = self._breaker, self._breaker.record_success()
        if before.is_open:
            log_event("circuit_closed", dependency="upstream", server=self._url)

    def _release_slot(self, slot: Slot, call: _Attempt) -> None:
        if slot.has_permit:
            self._queue.permits.release()
        cooldown_s = self._cooldown_s(slot.scope, call.advertised) if call.advertised.is_throttled else None
        if cooldown_s is None:
            self._throttled.pop(slot.scope, None)
        self._queue.release(slot, advertised=call.advertised.limits, cooldown_s=cooldown_s)
        if call.advertised.limits:
            self._metrics.record_advertised({each.name: each.limit for each in call.advertised.limits})

    def _cooldown_s(self, scope: str, said: AdvertisedLimits) -> float:
        """Return how long the cooldown lasts: as the upstream says, or longer each time it does not say."""
        self._metrics.throttled.inc()
        if said.cooldown_s is not None:
            return said.cooldown_s
        row = self._throttled.pop(scope, 0) + 1
        self._throttled[scope] = row
        if len(self._throttled) > _MAX_SCOPES:
            del self._throttled[next(iter(self._throttled))]
        return backoff_s(row, rng=(1.0 + self._rng()) / 2, first_s=0.5, longest_s=_DEFAULT_COOLDOWN_S)

    async def _retry_after_response(self, trial: _PendingCall, call: _Attempt, status: int) -> bool:
        """Whether to retry a call that was refused with 429, or failed on the upstream's side."""
        if call.advertised.is_throttled:
            if trial.may_retry:
                self._metrics.retried.labels("throttled").inc()
            return trial.may_retry
        return status in TRANSIENT_STATUSES and await self._retry_after_error(trial, str(status))

    async def _retry_after_error(self, call: _PendingCall, reason: str) -> bool:
        """Whether to retry a failed call after a pause; retries are limited to a share of the traffic."""
        pause_s = backoff_s(call.attempts, rng=self._rng())
        if (
            not (call.may_retry and call.is_safe)
            or call.attempts > self._max_retries
            or self._clock() + pause_s >= call.deadline
        ):
            return False
        left = self._retries.try_take()
        if left is None or self._breaker.is_open:
            return False
        self._retries = left
        self._metrics.retried.labels(reason).inc()
        await asyncio.sleep(pause_s)
        return True
