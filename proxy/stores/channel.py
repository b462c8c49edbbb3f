"""What replicas tell each other through Redis: invalidations, and claims that were given back.

Law 8 needs more than a message that is sent: when a write is answered, no replica may use what it had before. So

1. the replica that saw the write draws new generations, publishes them, and learns from Redis how many listened, or
   lately did;
2. every replica applies them and acknowledges;
3. the first one waits for as many acknowledgements, at most for *trust_s*.

A replica that can't be reached answers nothing from memory by then: it trusts its memory only for *trust_s* from the
sending of its latest ping that came back, and a broken channel brings none back. One whose end of the channel Redis has
given up, and that has not noticed, is still counted in step 1, for it entered itself before each ping.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from math import ceil
from typing import Final

import orjson
from redis.exceptions import RedisError

from proxy.stores.ending import ended
from proxy.stores.redis import RedisStore

_PAUSE_S: Final = 0.2
_COUNTED_S: Final = 30.0
# A replica is counted for longer than it trusts its memory. The clock is Redis', so that replicas' own don't matter.
_BEAT: Final = """
local now = redis.call('TIME')[1]
redis.call('ZADD', KEYS[1], now + ARGV[1], ARGV[2])
return redis.call('ZRANGEBYSCORE', KEYS[1], now, '+inf')
"""
_TELL: Final = """
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', redis.call('TIME')[1])
local listening = redis.call('PUBLISH', ARGV[1], ARGV[2])
return math.max(listening, redis.call('ZCARD', KEYS[1]))
"""
_NEW_RUN: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('SET', KEYS[2], ARGV[2])
return 1
"""

Apply = Callable[[Mapping[str, str], float], None]


class Channel:
    """One subscription, kept up for as long as it runs.

    *apply* is told the new generations of scopes, and until when listings are unsettled; *lost* is told that messages
    may have been missed. *trust_s* is how long a replica believes its memory without hearing from Redis, seconds.
    """

    def __init__(self, store: RedisStore, *, trust_s: float, apply: Apply, lost: Callable[[], None]) -> None:
        self._store = store
        self._trust_s = trust_s
        self._apply = apply
        self._lost = lost
        self._name = secrets.token_hex(8)
        self._seen = {self._name: time.monotonic()}
        self._trusted_until = 0.0
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._acknowledged: dict[str, asyncio.Semaphore] = {}
        self._task: asyncio.Task[None] | None = None

    @property
    def trusted(self) -> bool:
        """Whether every invalidation so far has arrived, but for those whose sender still waits for us."""
        return time.monotonic() < self._trusted_until

    @property
    def name(self) -> str:
        """This replica's name among those that listen."""
        return self._name

    @property
    def peers(self) -> frozenset[str]:
        """The replicas that listened lately, as long as Redis could be asked, this one included.

        One that goes away is still counted for a while: a Redis that comes back empty knows of nobody.
        """
        return frozenset(self._seen)

    def start(self) -> None:
        """Begin to listen."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop listening."""
        if self._task is not None:
            await ended([self._task])
            with suppress(RedisError, OSError, TimeoutError):
                async with asyncio.timeout(_PAUSE_S):
                    await self._store.redis.zrem(self._store.names.replicas, self._name)

    async def tell(self, generations: Mapping[str, str], *, unsettled_until: float) -> None:
        """Tell every replica the new *generations*, and return when none answers from before them.

        Raises `StoreUnavailableError` where nothing could be told.
        """
        message = secrets.token_hex(8)
        heard = self._acknowledged[message] = asyncio.Semaphore(0)
        told = orjson.dumps(
            {"of": message, "to": self._name, "generations": generations, "unsettled_until": unsettled_until}
        )
        try:
            listeners = await self._store.told(_TELL, b"i:" + told)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._trust_s):
                    for _ in range(listeners):
                        await heard.acquire()
        finally:
            del self._acknowledged[message]

    async def woken(self, message: str, *, held: Callable[[], Awaitable[bool]], timeout_s: float) -> None:
        """Return when *message* arrives, or after *timeout_s*, or at once unless *held* still says so.

        A waits, B gives its claim back. 1. A registers. 2. A asks whether the claim is still held. 3. If it isn't, B's
        message may have come before 1; if it is, B's message comes after 1 and is heard.
        """
        event = asyncio.Event()
        self._waiting.setdefault(message, set()).add(event)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    if await held():
                        await event.wait()
        finally:
            self._waiting[message].discard(event)
            if not self._waiting[message]:
                del self._waiting[message]

    async def _run(self) -> None:
        while True:
            with suppress(RedisError, OSError):
                await self._listen()
            self._distrust()
            await asyncio.sleep(_PAUSE_S)

    async def _listen(self) -> None:
        names = self._store.names
        async with self._store.redis.pubsub() as pubsub:
            await pubsub.subscribe(names.channel, f"{names.channel}:{self._name}")
            await self._believe_this_run()
            self._lost()  # whatever was learnt until now may be from before a message that was missed
            beat_s = self._trust_s / 3
            sent_at = 0.0
            answered = True
            self._seen = dict.fromkeys(self._seen, time.monotonic())
            while True:
                now = time.monotonic()
                if answered and now - sent_at >= beat_s:
                    sent_at, answered = now, False
                    await self._beat()
                    await pubsub.ping()
                elif not answered and now - sent_at > self._trust_s:
                    return
                message = await pubsub.get_message(timeout=beat_s / 2)
                if message is None:
                    continue
                if message["type"] == "pong":
                    answered = True
                    self._trusted_until = sent_at + self._trust_s
                elif message["type"] == "message":
                    await self._heard(message["data"])

    async def _beat(self) -> None:
        kept_s = ceil(2 * self._trust_s) + 1
        peers = await self._store.redis.eval(_BEAT, 1, self._store.names.replicas, kept_s, self._name)
        now = time.monotonic()
        self._seen |= {self._name: now} | {each.decode(): now for each in peers}
        self._seen = {name: at for name, at in self._seen.items() if now - at < _COUNTED_S}

    async def _heard(self, message: bytes) -> None:
        if message.startswith(b"w:"):
            for event in self._waiting.get(message.decode(), ()):
                event.set()
        elif message.startswith(b"a:"):
            if heard := self._acknowledged.get(message[2:].decode()):
                heard.release()
        elif message.startswith(b"i:"):
            told = orjson.loads(message[2:])
            self._apply(told["generations"], told["unsettled_until"])
            await self._store.redis.publish(f"{self._store.names.channel}:{told['to']}", f"a:{told['of']}")

    async def _believe_this_run(self) -> None:
        """Where Redis was restarted, make everything in it count as invalidated.

        It may have come back with an older snapshot, and with generations from before a write.
        """
        redis, names = self._store.redis, self._store.names
        run = (await redis.info("server")).get("run_id", "")
        await redis.eval(_NEW_RUN, 2, names.run, names.generation("all"), run, secrets.token_hex(8))

    def _distrust(self) -> None:
        self._trusted_until = 0.0
        self._lost()
        for events in self._waiting.values():
            for event in events:
                event.set()
