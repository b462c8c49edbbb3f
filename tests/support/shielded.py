"""A limiter before an upstream that is held by hand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry

from proxy.core.call_context import CallContext, Priority
from proxy.core.messages import Fields, Request, Response, StreamedResponse
from proxy.ratelimit.limiter import RateLimiter
from proxy.ratelimit.memory_store import MemoryRateLimitStore
from proxy.ratelimit.metrics import RateLimitMetrics
from proxy.ratelimit.queue import CallQueue
from proxy.ratelimit.resilience import CLOSED_CIRCUIT, UpstreamCircuit
from proxy.ratelimit.sliding_window import RateLimit

OK = Response(200, Fields(), b"{}")
THROTTLED = Response(
    429,
    Fields(),
    b'{"error_msg":"The throttling threshold has been reached: policy user over ratelimit,limit:5,time:1 second",'
    b'"error_code":"APIGW.0308","request_id":"x"}',
)

Said = Response | Exception


class Scripted:
    """Answers what the *script* says next, else OK; while *gate* is shut answers wait. *asked* is what came, in order.

    *most* is how many calls were under way at once.
    """

    def __init__(self) -> None:
        self.script: list[Said] = []
        self.asked: list[str] = []
        self.bodies: list[bytes] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.under_way = 0
        self.most = 0

    async def fetch(self, request: Request) -> Response:
        """Return the next answer."""
        self.asked.append(request.target)
        if request.body is not None:
            self.bodies.append(b"".join([chunk async for chunk in request.body]))
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await self.gate.wait()
        finally:
            self.under_way -= 1
        said = self.script.pop(0) if self.script else OK
        if isinstance(said, Exception):
            raise said
        return said

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[StreamedResponse]:
        """Stream the next answer."""
        answer = await self.fetch(request)

        async def chunks() -> AsyncIterator[bytes]:
            for byte in answer.body:
                yield bytes([byte])

        yield StreamedResponse(answer.status, answer.reason, answer.fields, chunks())


class Shielded:
    """A limiter over process memory before a `Scripted`."""

    def __init__(
        self,
        allowance: RateLimit | None = None,
        *,
        max_wait_s: float = 5.0,
        most: int = 64,
        scope: str | None = "all",
        clock: Callable[[], float] = time.monotonic,
        retries: int = 2,
        breaker: UpstreamCircuit = CLOSED_CIRCUIT,
    ) -> None:
        self.upstream = Scripted()
        self.registry = CollectorRegistry()
        metrics = RateLimitMetrics(self.registry)
        self.turns = CallQueue(
            MemoryRateLimitStore(allowance, hold_s=1.0, clock=clock),
            max_concurrent=most,
            hold_s=1.0,
            clock=clock,
            metrics=metrics,
        )
        self.limiter = RateLimiter(
            self.upstream,
            self.turns,
            url="http://image.test",
            max_wait_s=max_wait_s,
            scope=scope,
            metrics=metrics,
            clock=clock,
            now=time.time,
            rng=lambda: 0.0,
            retries=retries,
            breaker=breaker,
        )

    async def get(
        self,
        target: str = "/",
        priority: Priority = Priority.INTERACTIVE,
        *,
        caller: str = "",
        partition: str = "",
        patient: bool = True,
        method: str = "GET",
    ) -> Response:
        """Return what a call of *caller* is answered."""
        claimant = CallContext(priority, caller, partition, patient)
        return await self.limiter.fetch(Request(method, target, Fields(), "id", context=claimant))

    def start(self, target: str, priority: Priority = Priority.INTERACTIVE, **who: str) -> asyncio.Task[Response]:
        """Begin a call."""
        return asyncio.create_task(self.get(target, priority, **who))  # type: ignore[arg-type]

    def metric(self, name: str, **labels: str) -> float:
        """Return the value of a sample, 0 where there is none."""
        return self.registry.get_sample_value(f"ims_proxy_{name}", labels) or 0.0


async def turns_pass(count: int = 20) -> None:
    """Let every task that can go on do so."""
    for _ in range(count):
        await asyncio.sleep(0)
