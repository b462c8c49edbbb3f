"""What replicas tell each other through Redis: invalidations, and claims that were given back.

Law 8 needs more than a message that is sent: when a write is answered, no replica may use what it had before. So

1. the replica that saw the write draws new generations, publishes of what, and learns from Redis who lately listened,
   and how many do;
2. every replica forgets those of before, and acknowledges by its name;
3. the first one waits for all of those, and for as many in all, at most for *trust_s*.

A replica that can't be reached answers nothing from memory by then: it trusts its memory only for *trust_s* from the
sending of its latest ping that came back, and a broken channel brings none back. One whose end of the channel Redis has
given up, and that has not noticed, is still counted in step 1, for it entered itself before each ping. So is, by who
tells, one that was lately there and did not say goodbye: after a failover replicas come back one after the other.

Redis itself may be another one than a moment ago: restarted with an older snapshot, or a copy that leads now and lacks
the last writes. So nothing that it says is believed from when a channel broke until it was looked at again.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from itertools import count
from math import ceil
from typing import Final

import orjson
from redis.exceptions import NoPermissionError, RedisError

from proxy.core.keys import EVERYTHING
from proxy.errors import StoreUnavailableError
from proxy.stores.acknowledged import Acknowledged, replicas
from proxy.stores.ending import ended
from proxy.stores.redis import RedisStore

_PAUSE_S: Final = 0.2
_AT_ONCE_S: Final = 0.02
_COUNTED_S: Final = 30.0
_ANOTHER_RUN: Final = 2  # see run.lua

Apply = Callable[[Collection[str], float], None]


class Channel:
    """One subscription, kept up for as long as it runs.

    *apply* is told the scopes that have new generations, and until when listings are unsettled; *lost* is told that
    messages may have been missed. *trust_s* is how long a replica believes its memory without hearing from Redis,
    seconds.
    """

    def __init__(self, store: RedisStore, *, trust_s: float, apply: Apply, lost: Callable[[], None]) -> None:
        self._store = store
        self._trust_s = trust_s
        self._apply = apply
        self._lost = lost
        self._name = secrets.token_hex(8)
        self._seen = {self._name: time.monotonic()}
        self._left: set[str] = set()  # of those seen, who said goodbye
        self._trusted_until = 0.0
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._acknowledged: dict[str, Acknowledged] = {}
        self._task: asyncio.Task[None] | None = None
        self._sessions = count(1)
        self._session: int | None = None
        self._home = ""
        self._looked = asyncio.Event()  # set when Redis was first looked at, in vain or not

    @property
    def session(self) -> int | None:
        """A number that changes when Redis may have lost something; None while Redis is not to be believed."""
        here = self._store.servers.home(self._store.names.run) == self._home
        return self._session if here else None

    async def begun(self, *, wait_s: float) -> None:
        """Return when Redis has been looked at for the first time, or after *wait_s*."""
        if not self._looked.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._looked.wait()

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
                    await self._store.redis.publish(self._store.names.channel, f"b:{self._name}")

    async def tell(self, scopes: Sequence[str], *, unsettled_until: float) -> None:
        """Tell every replica that *scopes* have new generations, and return when none answers from before them.

        Raises `StoreUnavailableError` where nothing could be told.
        """
        message = secrets.token_hex(8)
        acknowledged = self._acknowledged[message] = Acknowledged()
        told = orjson.dumps({"of": message, "to": self._name, "scopes": scopes, "unsettled_until": unsettled_until})
        try:
            names = self._store.names
            listening, counted = await self._store.commands.run("tell", [names.replicas], [names.channel, b"i:" + told])
            expected = replicas(counted) | (self._seen.keys() - self._left)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._trust_s):
                    await acknowledged.by_all(expected, count=listening)
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
            refused = False
            try:
                await self._listen()
            except NoPermissionError:
                refused = True  # it takes commands all the same
            except (RedisError, OSError, StoreUnavailableError):
                pass
            broke = self._session is not None and not refused
            self._session = self._session if refused else None
            self._looked.set()
            self._distrust()
            await asyncio.sleep(_AT_ONCE_S if broke else _PAUSE_S)

    async def _listen(self) -> None:
        names, servers = self._store.names, self._store.servers
        async with servers.listening(names.replicas) as pubsub:
            try:
                await pubsub.subscribe(names.channel, f"{names.channel}:{self._name}")
            except NoPermissionError:
                await self._look()
                raise
            await self._look()
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
                    if self.session is None:
                        return  # news are made elsewhere now
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
                    try:
                        await self._heard(message["data"])
                    except (ValueError, TypeError, KeyError, AttributeError) as error:
                        # Another release's, or nobody's: it may have told of a write, so all is asked for anew.
                        raise StoreUnavailableError("channel: a message that can't be read") from error

    async def _beat(self) -> None:
        kept_s = ceil(2 * self._trust_s) + 1
        peers = await self._store.commands.run("beat", [self._store.names.replicas], [kept_s, self._name])
        now = time.monotonic()
        self._seen |= dict.fromkeys((self._name, *replicas(peers)), now)
        self._seen = {name: at for name, at in self._seen.items() if now - at < _COUNTED_S}
        self._left &= self._seen.keys()

    async def _heard(self, message: bytes) -> None:
        if message.startswith(b"w:"):
            for event in self._waiting.get(message.decode(), ()):
                event.set()
        elif message.startswith(b"a:"):
            of, _, name = message[2:].decode().partition(":")
            if acknowledged := self._acknowledged.get(of):
                acknowledged.by(name)
        elif message.startswith(b"b:"):
            self._left.add(message[2:].decode())
        elif message.startswith(b"i:"):
            told = orjson.loads(message[2:])
            self._apply(told["scopes"], told["unsettled_until"])
            await self._store.redis.publish(f"{self._store.names.channel}:{told['to']}", f"a:{told['of']}:{self._name}")

    async def _look(self) -> None:
        """Believe Redis; where it is another than before, once all that is in it counts as invalidated.

        Its log of calls is not believed either; who keeps a budget notices by the life that it has.
        """
        names, commands = self._store.names, self._store.commands
        home = self._store.servers.home(names.run)
        changed = await commands.run("run", [names.run, names.generation(EVERYTHING)], [secrets.token_hex(8)])
        if changed == _ANOTHER_RUN:
            async with commands.translated() as redis:
                await redis.delete(names.budgets)
        await self._store.keep_secret()
        if changed or self._session is None:
            self._session = next(self._sessions)
        self._home = home
        self._looked.set()

    def _distrust(self) -> None:
        self._trusted_until = 0.0
        self._lost()
        for events in self._waiting.values():
            for event in events:
                event.set()
