"""A resource in front of which anything may happen: whatever is shown was so, not too long ago, and not before a write.

The upstream's document has a version that grows; it is given with a validator or without. Callers of two tokens ask,
calls are held and answered in any order, writes are told or happen behind the proxy's back, the upstream fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from proxy.core.cache_key import ALL_TAG
from proxy.core.messages import Fields, Request, StreamedResponse
from proxy.core.routes import Forward
from proxy.errors import NotCachedError, ProxyError, UpstreamUnreachableError
from proxy.resources.request import ResourceRequest
from proxy.resources.service import ResourceResult
from tests.integration.laws.test_state_machine import bounds
from tests.support.resources import TTL, Resources

TOKENS = ("mine", "theirs")
CONTROLS = ("", "", "no-cache", "max-age=3", "min-fresh=5", "only-if-cached")
SPINS = 25

Result = TypeVar("Result")


@dataclass(eq=False)
class Asked:
    """One request, by *token*; *floor* is when the latest write took effect that was told before it."""

    token: str
    control: str
    floor: float
    task: asyncio.Task[ResourceResult | Forward] = field(repr=False)
    troubled: bool
    ended: float = 0.0


class Document:
    """The upstream: one document with a version, each with when it began. While *holding* calls wait."""

    def __init__(self) -> None:
        self.versions: list[tuple[float, int]] = []
        self.tagged = True
        self.failing = False
        self.holding = False
        self.held: list[asyncio.Event] = []

    async def fetch(self, request: Request) -> Any:
        """Fetch nothing: resources are streamed."""
        raise AssertionError(request)

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[StreamedResponse]:
        """Give the version of the moment in which the call is let go, or a 304 where the caller has it."""
        if self.holding:
            gate = asyncio.Event()
            self.held.append(gate)
            await gate.wait()
        if self.failing:
            raise UpstreamUnreachableError("upstream: away")
        token = request.fields.get("x-auth-token")
        version = self.versions[-1][1]
        tag = f'"{token} {version}"'
        fields = Fields([("ETag", tag)] if self.tagged else [])
        known = request.fields.get_all("if-none-match") == [tag]
        body = b"" if known else orjson.dumps({"status": "active", "token": token, "version": version})
        yield StreamedResponse(304 if known else 200, None, fields, _once(body))


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


class Laws(RuleBasedStateMachine):
    """The gateway over process memory, and a document."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.upstream = Document()
        self.world = self.run(self.made())
        self.upstream.versions.append((self.world.hand.now, 0))
        self.floor = self.world.hand.now
        self.asked: list[Asked] = []

    async def made(self) -> Resources:
        """Return what the gateway stands in."""
        return Resources(upstream=self.upstream)

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Return what *work* returns."""
        return self.loop.run_until_complete(work)

    async def settle(self) -> None:
        """Let everything run that can."""
        for _ in range(SPINS):
            await asyncio.sleep(0)

    @rule(token=st.sampled_from(TOKENS), control=st.sampled_from(CONTROLS), method=st.sampled_from(["GET", "HEAD"]))
    def ask(self, token: str, control: str, method: str) -> None:
        """Ask for the document."""
        ask = self.world.ask(method=method, token=token, **({"Cache_Control": control} if control else {}))
        assert isinstance(ask, ResourceRequest)
        task = self.loop.create_task(self.world.gateway.answer(ask))
        one = Asked(token, control, self.floor, task, self.upstream.failing)
        task.add_done_callback(lambda _: setattr(one, "ended", self.world.hand.now))
        self.asked.append(one)
        self.run(self.settle())

    @rule(told=st.booleans())
    def change(self, told: bool) -> None:
        """Change the document, through the proxy or behind its back."""
        now = self.world.hand.now
        self.upstream.versions.append((now, len(self.upstream.versions)))
        if told:
            self.run(self.world.store.invalidate([ALL_TAG], now=now))
            self.floor = now

    @rule(seconds=st.sampled_from((0.4, 1.0, 7.0, 30.0, 61.0, 66.0, 90.0, 170.0)))
    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.world.hand.now += seconds

    @rule(failing=st.booleans(), tagged=st.booleans())
    def upstream_turns(self, failing: bool, tagged: bool) -> None:
        """Let the upstream fail or recover, and give validators or none."""
        self.upstream.failing, self.upstream.tagged = failing, tagged
        for one in self.asked:
            one.troubled |= failing

    @rule()
    def hold(self) -> None:
        """Hold what the upstream is asked from now on."""
        self.upstream.holding = True

    @rule(which=st.integers(0, 9))
    def release(self, which: int) -> None:
        """Let one call go that is held."""
        if self.upstream.held:
            self.upstream.held.pop(which % len(self.upstream.held)).set()
            self.run(self.settle())

    @rule()
    def release_all(self) -> None:
        """Let every call go, those that follow too."""
        self.upstream.holding = False
        while self.upstream.held:
            self.upstream.held.pop().set()
            self.run(self.settle())

    @invariant()
    def every_answer_is_lawful(self) -> None:
        """Hold each answer that has come against what the document was."""
        for one in [one for one in self.asked if one.task.done()]:
            self.asked.remove(one)
            self.check(one)
        assert not self.asked or self.upstream.held, f"nobody works on {self.asked}"

    def check(self, one: Asked) -> None:
        error = one.task.exception()
        if error is not None:
            assert isinstance(error, ProxyError)
            assert one.troubled or (isinstance(error, NotCachedError) and one.control == "only-if-cached")
            return
        got = one.task.result()
        assert isinstance(got, ResourceResult)
        shown = orjson.loads(got.response.body)
        age_s = float(got.response.fields.get("age") or 0.0) + 1.0  # told in whole seconds
        oldest = max(one.ended - age_s, one.floor)
        assert shown["token"] == one.token, f"{one}: {shown}"
        assert shown["version"] in self.during(oldest, one.ended), f"{one}: {shown}, {got.cache_status}"
        if got.cache_status.detail == "stale-if-error":
            assert one.troubled
            assert age_s <= TTL.ttl_s + TTL.stale_if_error_s + 1.0
        elif got.cache_status.fwd is None:
            assert age_s <= TTL.ttl_s + TTL.stale_while_revalidate_s + 1.0

    def during(self, begin: float, end: float) -> list[int]:
        """Return the versions that the document had from *begin* to *end*."""
        ends = [began for began, _ in self.upstream.versions[1:]] + [float("inf")]
        return [
            version
            for (began, version), ended in zip(self.upstream.versions, ends, strict=True)
            if began <= end and ended >= begin
        ]

    def teardown(self) -> None:
        """Let go what is left, and close."""
        try:
            self.release_all()
            self.every_answer_is_lawful()
            assert not self.asked
        finally:
            self.run(self.world.gateway.close())
            self.loop.close()


TestResources = Laws.TestCase
TestResources.settings = bounds(150, steps=40)
