"""The same laws over two replicas on one real Redis, to which the way of each, or of both, may be cut or stopped up.

A write is told by a replica that reaches Redis, if one does: what one that is cut off can't tell is a known limit.
While one alone is cut off it may show, for as long as it believes its memory, what was before another's write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar, Final

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from proxy.observability.event_loop import LoopClock
from proxy.storage.memory import MemoryStore
from proxy.storage.redis import connect
from proxy.storage.tiered import TieredStore
from tests.integration.laws.test_state_machine import ANY, Laws, bounds
from tests.support.history import LONGEST, START
from tests.support.laws_world import LIFETIMES, Replica, replica
from tests.support.processes import LOOPBACK
from tests.support.redis import RedisServer
from tests.support.relay import Relay
from tests.support.waiting import until

NEAR_TTL_S: Final = 0.15
TIMEOUT_S: Final = 0.1
LATE_S: Final = 0.005  # news reach one of them later than the other
QUIET_S: Final = 0.02
SLICES: Final = 1000


class TwoReplicas(Laws):
    """Two gateways, each with a memory and a breaker of its own."""

    port: ClassVar[int]

    async def made(self) -> list[Replica]:
        """Each finds Redis by a way of its own."""
        self.stack = AsyncExitStack()
        self.told: tuple[list[tuple[float, float]], ...] = ([(START, START)], [(START, START)])
        self.latest = ("", "mine", "", LONGEST, "")
        self.ways = [await self.stack.enter_async_context(Relay(self.port)) for _ in range(2)]
        self.ways[1].delay_s = LATE_S
        self.stores = [self.store(way) for way in self.ways]
        await self.stores[0].far.redis.flushall()
        for store in self.stores:
            store.start()
        await until(self.all_listen)
        return [replica(self.upstream, store, self.hand) for store in self.stores]

    def store(self, way: Relay) -> TieredStore:
        url = f"redis://{LOOPBACK}:{way.port}/0"
        keep_s = LIFETIMES.ttl_s + LIFETIMES.max_stale_s
        return TieredStore(
            MemoryStore(1 << 20),
            connect(url, prefix="ims-laws:", keep_s=keep_s, timeout_s=TIMEOUT_S),
            near_ttl_s=NEAR_TTL_S,
            loop_clock=LoopClock(),
            stale_s=keep_s,
            timeout_s=TIMEOUT_S,
            on_failure=lambda _: None,
        )

    async def settle(self) -> None:
        """Let everything run that can; what is left waits for the upstream, or for who waits for it."""
        for _ in range(SLICES):
            pending = [one.task for one in self.asked if not one.task.done()]
            if not pending:
                return
            before = len(self.upstream.targets)
            await asyncio.wait(pending, timeout=QUIET_S)
            if self.upstream.held and len(self.upstream.targets) == before:
                return

    def ask(self, query: str, token: str, marker: str, limit: int, control: str, at: int) -> None:
        """Through both, so that each has in its memory what the other may make out of date."""
        self.latest = (query, token, marker, limit, control)
        for number in (at, at + 1):
            super().ask(*self.latest, number)
            self.every_answer_is_lawful()

    def floor_of(self, number: int) -> float:
        """One that is cut off learns of what another was told a little later."""
        return max(effect for known_at, effect in self.told[number] if known_at <= self.hand.now)

    def tell(self, at: int, *, unsettled_s: float) -> None:
        """See `Laws.tell`; time passes as long as the writer waits."""
        effect, began = self.hand.now, self.loop.time()
        reaching = [number for number, way in enumerate(self.ways) if way.whole]
        writer = reaching[at % len(reaching)] if reaching else at % 2
        self.run(self.stores[writer].invalidate(["all"], pending_s=unsettled_s, now=effect))
        self.hand.now += self.loop.time() - began
        for number, known in enumerate(self.told):
            late = bool(reaching) and number not in reaching
            known.append((self.hand.now + (NEAR_TTL_S if late else 0.0), effect))
        self.every_answer_is_lawful()
        self.ask(*self.latest, writer + 1)

    @rule(which=st.sampled_from(((), (), (), (0,), (1,), (0, 1))), stopped_up=st.booleans())
    def lose_redis(self, which: tuple[int, ...], stopped_up: bool) -> None:
        """Let one replica, or both, no longer reach Redis; mostly nobody, or there were nothing else."""
        for number in which:
            if stopped_up:
                self.ways[number].stop_up()
            else:
                self.ways[number].cut()

    @precondition(lambda self: not all(way.whole for way in self.ways))
    @rule()
    def find_redis(self) -> None:
        """Let both reach Redis again; what their breakers think of it is another matter."""
        for way in self.ways:
            way.mend()
        self.run(until(self.all_listen))

    @precondition(lambda self: all(way.whole for way in self.ways))
    @rule()
    def forget(self) -> None:
        """Let Redis lose all that it holds, as one does that evicts."""
        self.run(self.emptied())

    async def emptied(self) -> None:
        server = connect(f"redis://{LOOPBACK}:{self.port}/0", prefix="", keep_s=1, timeout_s=5.0)
        await server.redis.flushall()
        await server.close()

    @rule(at=ANY)
    def hang_up(self, at: int) -> None:
        """Let a caller go away, if one waits."""
        waiting = [one for one in self.asked if not one.task.done()]
        if waiting:
            gone = waiting[at % len(waiting)]
            self.asked.remove(gone)
            gone.task.cancel()
            self.run(self.settle())

    def all_listen(self) -> bool:
        """Return whether every replica hears of every write."""
        return all(store.bus_up for store in self.stores)

    async def closed(self) -> None:
        await super().closed()
        await self.stack.aclose()


@pytest.fixture(scope="module", autouse=True)
def one_redis() -> Iterator[None]:
    """Run the Redis that every example begins with empty."""
    with TemporaryDirectory() as directory, RedisServer(Path(directory)) as server:
        TwoReplicas.port = server.port
        yield


TestTwoReplicas = TwoReplicas.TestCase
TestTwoReplicas.settings = bounds(25, steps=40)
