"""The rate-limit shield: an upstream that makes another's calls calm, fair and bounded.

client -> breaker -> turn (budget, gate, permit) -> the upstream -> what it says of its limits -> perhaps again

Every call counts, a retry too, and waits for its turn like another.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from proxy.core.call_context import Claimant, Priority
from proxy.core.messages import USER_AGENT, Exchange, Fields, Request, Response, Upstream
from proxy.core.values import immutable
from proxy.core.write_effect import SAFE
from proxy.errors import (
    BrokenBodyError,
    ProxyError,
    UpstreamFailingError,
    UpstreamTimeoutError,
    UpstreamUnreachableError,
)
from proxy.http.body_buffering import beginning, replayable
from proxy.observability.logging import event
from proxy.ratelimit.memory_store import WithoutStore
from proxy.ratelimit.metrics import ShieldMetrics
from proxy.ratelimit.queue import Queues, Turn, Turns
from proxy.ratelimit.resilience import CLOSED, TRANSIENT, Breaker, Retries, backoff_s
from proxy.ratelimit.sliding_window import Usage
from proxy.ratelimit.upstream_limits import Heard, heard

_PROBE_S: Final = 60.0
_LEAST_PAUSE_S: Final = 0.05
_PROBE: Final = "probe"  # the partition whose budget probes count towards, where each has its own
_PROBE_FIELDS: Final = Fields([("User-Agent", USER_AGENT)])
_MOST_SCOPES: Final = 10_000
_GATE_S: Final = 60.0  # the longest that an upstream which does not say for how long is left alone
_SPOKEN: Final = frozenset({400, 429})  # answers whose body may tell a limit


@dataclass(slots=True)
class _Trial:
    """One request and its tries. *again* says that it may be sent again, *safe* that it may even if it arrived."""

    request: Request
    scope: str
    deadline: float
    again: bool
    safe: bool
    tries: int = 0


@dataclass(slots=True)
class _Call:
    """One try. *heard* is what its answer said of limits, *failed* why it counts as no answer.

    *closes* says whether its success closes the circuit breaker, or only lets the next call through.
    """

    heard: Heard = field(default_factory=Heard)
    failed: str | None = "no answer"
    closes: bool = True


@immutable
class ShieldState:
    """How the shield stands: the tightest budget, the lines before the upstream, the breaker, the calls under way.

    *left_alone_s* is None while the breaker is closed, *without_store* while replicas count together.
    """

    usage: Usage | None
    queues: Queues
    left_alone_s: float | None
    concurrency_limit: int
    under_way: int
    without_store: WithoutStore | None


class Limiter:
    """An `Upstream` before *upstream*; a call counts towards the budget of its partition, or of *scope* for all.

    A call that failed is made *retries* times more at the most; *breaker* says when no more calls are made.
    *now* gives epoch seconds, *clock* never steps back, *dice* a number from 0 to 1. The log names it by its *url*.
    """

    def __init__(
        self,
        upstream: Upstream,
        turns: Turns,
        *,
        url: str,
        max_wait_s: float,
        scope: str | None,
        metrics: ShieldMetrics,
        clock: Callable[[], float],
        now: Callable[[], float],
        dice: Callable[[], float],
        retries: int = 2,
        breaker: Breaker = CLOSED,
    ) -> None:
        self._upstream = upstream
        self._url = url
        self._turns = turns
        self._most_retries = retries
        self._max_wait_s = max_wait_s
        self._scope = scope
        self._metrics = metrics
        self._clock = clock
        self._now = now
        self._dice = dice
        self._breaker = breaker
        self._failed_with_status = False  # the upstream replied to the latest call that failed
        self._probing: asyncio.Task[None] | None = None
        self._retries = Retries()
        self._throttled: dict[str, int] = {}  # refusals in a row that did not say for how long

    async def fetch(self, request: Request) -> Response:
        """See `Upstream.fetch`; raises `TooManyCallsError` or `UpstreamFailingError` where no call is made."""
        trial = self._trial(request, replays=request.body is None)
        while True:
            try:
                async with self._called(trial) as call:
                    response = await self._upstream.fetch(trial.request)
                    self._answered(call, response.status, response.fields, response.body)
            except (UpstreamUnreachableError, UpstreamTimeoutError) as error:
                if not await self._again(trial, error.code):
                    raise
                continue
            if not await self._repeated(trial, call, response.status):
                return response

    @asynccontextmanager
    async def exchange(self, request: Request) -> AsyncIterator[Exchange]:
        """See `Upstream.exchange`, and `fetch`."""
        request, replays = await replayable(request)
        trial = self._trial(request, replays=replays)
        async with AsyncExitStack() as stack:
            yield await self._exchanged(trial, stack)

    async def close(self) -> None:
        """Probe the upstream no more."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)

    def low(self, partition: str) -> bool:
        """Whether the budget that *partition* calls from runs low."""
        return self._turns.low(self._scope or partition)

    def left_alone_s(self) -> float | None:
        """Return for how long the upstream is left alone because it failed, None where it is not."""
        return max(0.0, self._breaker.open_until - self._clock()) if self._breaker.opened else None

    async def _exchanged(self, trial: _Trial, stack: AsyncExitStack) -> Exchange:
        while True:
            async with AsyncExitStack() as attempt:
                try:
                    async with self._called(trial) as call:
                        given = await attempt.enter_async_context(self._upstream.exchange(trial.request))
                        text, given = await beginning(given) if given.status in _SPOKEN else (b"", given)
                        self._answered(call, given.status, given.fields, text)
                except (UpstreamUnreachableError, UpstreamTimeoutError) as error:
                    if not await self._again(trial, error.code):
                        raise
                    continue
                if await self._repeated(trial, call, given.status):
                    continue
                await stack.enter_async_context(attempt.pop_all())
                return given

    def _trial(self, request: Request, *, replays: bool) -> _Trial:
        claimant = request.claimant
        return _Trial(
            request,
            scope=self._scope or claimant.partition,
            deadline=self._clock() + self._max_wait_s,
            again=replays and claimant.patient,
            # A DELETE may be sent again too (RFC 9110 §9.2.2), but where the first one arrived the second is told 404,
            # and then neither the caller nor the proxy knows that it was done.
            safe=request.method in SAFE,
        )

    @asynccontextmanager
    async def _called(self, trial: _Trial) -> AsyncIterator[_Call]:
        """Wait for a turn, let the call be made, and tell everyone what came of it."""
        self._closed_breaker(trial, claim=False)
        turn = await self._turns.turn(trial.scope, trial.request.claimant, deadline=trial.deadline)
        call = _Call()
        try:
            if trial.request.still is not None:
                trial.request.still()
            self._closed_breaker(trial, claim=True)
            self._retries = self._retries.called() if trial.tries == 0 else self._retries
            trial.tries += 1
            try:
                yield call
            except (asyncio.CancelledError, GeneratorExit, BrokenBodyError):  # none of these is the upstream's doing
                self._breaker = self._breaker.abandoned(now=self._clock())
                raise
            except ProxyError as error:
                self._failed_with_status = False
                self._failed(str(error))
                raise
            if call.failed:
                self._failed_with_status = True
                self._failed(call.failed)
            elif call.closes:
                self._succeeded()
            else:
                self._breaker = self._breaker.half_opened(now=self._clock())
        finally:
            self._ended(turn, call)

    def _closed_breaker(self, trial: _Trial, *, claim: bool) -> None:
        """Let the call pass if the breaker does, as a probe if need be; raises `UpstreamFailingError` if not."""
        left_s, breaker = self._breaker.asked(probe_s=_PROBE_S, now=self._clock())
        if left_s > 0:
            self._metrics.refused.labels(trial.request.claimant.priority.label, "failing").inc()
            raise UpstreamFailingError("upstream: failed so often that it is left alone", retry_after_s=left_s)
        if claim:
            self._breaker = breaker

    def _answered(self, call: _Call, status: int, fields: Fields, body: bytes) -> None:
        call.failed = f"status {status}" if status in TRANSIENT else None
        call.heard = heard(status, fields, body, now=self._now())

    def _failed(self, reason: str) -> None:
        before, self._breaker = self._breaker, self._breaker.failed(now=self._clock())
        if self._breaker.opened and not before.opened:
            event("circuit_open", level=logging.WARNING, dependency="upstream", server=self._url, reason=reason)
        if self._breaker.opened and (self._probing is None or self._probing.done()):
            self._probing = asyncio.create_task(self._probe_until_it_replies())

    async def _probe_until_it_replies(self) -> None:
        """Ask the upstream after each pause, whether or not callers do, until it replies.

        Where calls failed for lack of a reply, the breaker closes then. Where they were answered 5xx the next caller's
        call is the probe: the versions document may well be there when lists are not.
        """
        claimant = Claimant(Priority.REVALIDATION, partition=_PROBE, patient=False)
        request = Request("GET", "/", _PROBE_FIELDS, request_id="", claimant=claimant)
        while True:
            await asyncio.sleep(max(_LEAST_PAUSE_S, self._breaker.open_until - self._clock()))
            if not self._breaker.opened:
                return
            if self._breaker.open_until > self._clock():
                continue  # a caller was the probe
            with suppress(ProxyError):
                async with self._called(self._trial(request, replays=False)) as call:
                    call.closes = not self._failed_with_status
                    response = await self._upstream.fetch(request)
                    self._answered(call, response.status, response.fields, b"")
                if call.failed is None:
                    return

    def _succeeded(self) -> None:
        before, self._breaker = self._breaker, self._breaker.succeeded()
        if before.opened:
            event("circuit_closed", dependency="upstream", server=self._url)

    def _ended(self, turn: Turn, call: _Call) -> None:
        if turn.permitted:
            self._turns.permits.give_back()
        closed_s = self._closed_s(turn.scope, call.heard) if call.heard.throttled else None
        if closed_s is None:
            self._throttled.pop(turn.scope, None)
        self._turns.over(turn, told=call.heard.told, closed_s=closed_s)
        if call.heard.told:
            self._metrics.learnt({each.name: each.allowance for each in call.heard.told})

    def _closed_s(self, scope: str, said: Heard) -> float:
        """Return for how long to close the gate: as the upstream says, or longer each time that it does not say."""
        self._metrics.throttled.inc()
        if said.closed_s is not None:
            return said.closed_s
        row = self._throttled.pop(scope, 0) + 1
        self._throttled[scope] = row
        if len(self._throttled) > _MOST_SCOPES:
            del self._throttled[next(iter(self._throttled))]
        return backoff_s(row, dice=(1.0 + self._dice()) / 2, first_s=0.5, longest_s=_GATE_S)

    async def _repeated(self, trial: _Trial, call: _Call, status: int) -> bool:
        """Whether to make the call again, because it was refused as one too many, or failed on the upstream's side."""
        if call.heard.throttled:
            if trial.again:
                self._metrics.retried.labels("throttled").inc()
            return trial.again
        return status in TRANSIENT and await self._again(trial, str(status))

    async def _again(self, trial: _Trial, reason: str) -> bool:
        """Whether to make a call again that failed, after a pause; a share of the traffic may be such calls."""
        pause_s = backoff_s(trial.tries, dice=self._dice())
        if (
            not (trial.again and trial.safe)
            or trial.tries > self._most_retries
            or self._clock() + pause_s >= trial.deadline
        ):
            return False
        left = self._retries.taken()
        if left is None or self._breaker.opened:
            return False
        self._retries = left
        self._metrics.retried.labels(reason).inc()
        await asyncio.sleep(pause_s)
        return True
