"""The invalidation bus: invalidations published to all replicas through Redis, on a connection with its own heartbeat.

Law 8 needs more than a message that is sent: when a write is answered, no replica may use what it had before. So

1. the replica that saw the write draws new generations, publishes of what, and learns from Redis who lately listened,
   and how many do;
2. every replica forgets those of before, and acknowledges by its name;
3. the first one waits for all of those, and for as many in all, at most for *trust_s*.

A replica that can't be reached answers nothing from memory by then: it trusts its memory only for *trust_s* from the
sending of its latest ping that came back, and a broken connection brings none back. One whose end of the connection
Redis has given up, and that has not noticed, is still counted in step 1, for it entered itself before each ping. So is,
by who tells, one that was lately there and did not say goodbye: after a failover replicas come back one after the
other.

Invalidations are numbered by Redis. Each heartbeat asks for the latest number before it pings, so a replica whose pong
arrives has read every message up to that number, or knows that it missed one: it was lost, altered on its way, or its
writer may not publish. Then it forgets all that it knew of generations. So a writer that can't publish needs only wait.

Redis itself may be another one than a moment ago: restarted with an older snapshot, or a copy that leads now and lacks
the last writes. So nothing that it says is believed from when a session of the bus ended until it was looked at again.
Whatever is raised while messages are read ends one session, and another begins.

Who has acknowledged a message: each is waited for by name, for one can't answer for another.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from itertools import count
from math import ceil, inf
from typing import Final
from zlib import crc32

import orjson
from redis.exceptions import NoPermissionError, RedisError

from proxy.core.cache_key import ALL_TAG
from proxy.errors import StoreUnavailableError
from proxy.observability.event_loop import LoopClock, cancel_and_wait
from proxy.observability.logging import log_event
from proxy.storage.redis import RedisStore


class Acknowledgements:
    """The replicas that have acknowledged one message."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._more = asyncio.Event()

    def add(self, name: str) -> None:
        """Record that replica *name* has acknowledged."""
        self._names.add(name)
        self._more.set()

    async def wait_for_all(self, names: AbstractSet[str], *, count: int) -> None:
        """Return once all of *names* have acknowledged, and *count* replicas in all."""
        while not (names <= self._names and len(self._names) >= count):
            self._more.clear()
            await self._more.wait()


def parse_replica_names(names: Iterable[bytes]) -> set[str]:
    """Return the names of replicas; a name that is not text is nobody's, and is left out."""
    return {name.decode() for name in names if name.isascii()}


_PAUSE_S: Final = 0.2
_IMMEDIATE_S: Final = 0.02
_SEEN_S: Final = 30.0  # how long a replica counts as lately seen
_BRIEF_WAIT_S: Final = 0.5  # how long a session that ended is expected to be followed by another
_RUN_CHANGED: Final = 2  # see run.lua
_STARTING: Final = "not connected yet"

ApplyInvalidation = Callable[[Collection[str], float], None]


class InvalidationBus:
    """One subscription, kept up for as long as it runs.

    *apply* is told the scopes that have new generations, and until when listings are unsettled; *on_missed* is told
    that messages may have been missed. *trust_s* is how long a replica believes its memory without hearing from Redis,
    seconds.
    """

    def __init__(
        self,
        store: RedisStore,
        *,
        trust_s: float,
        loop_clock: LoopClock,
        apply: ApplyInvalidation,
        on_missed: Callable[[], None],
    ) -> None:
        self._store = store
        self._trust_s = trust_s
        self._loop_clock = loop_clock
        self._apply = apply
        self._on_missed = on_missed
        self._name = secrets.token_hex(8)
        self._seen = {self._name: time.monotonic()}
        self._departed: set[str] = set()  # of those seen, who said goodbye
        self._trusted_until = 0.0
        self._published = 0  # how many invalidations there were at the latest heartbeat
        self._heard: int | None = None  # the number of the latest one that arrived
        self._has_beaten = False
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._acknowledged: dict[str, Acknowledgements] = {}
        self._task: asyncio.Task[None] | None = None
        self._sessions = count(1)
        self._session: int | None = None
        self._session_began = asyncio.Event()  # set while there is a session
        self._ended_at = -inf  # when the latest session ended
        self._server_run = ""
        self._was_checked = asyncio.Event()  # set when Redis was first looked at, in vain or not
        self.sessions_begun = 0
        self.down_reason = _STARTING

    @property
    def session(self) -> int | None:
        """A number that changes when Redis may have lost something; None while Redis is not to be believed."""
        here = self._store.servers.server_of(self._store.names.server_run) == self._server_run
        return self._session if here else None

    async def wait_until_listening(self, *, wait_s: float) -> None:
        """Return when Redis has been looked at, or after *wait_s*: at the start, and briefly after a session ended."""
        if not self._was_checked.is_set():
            await self._wait(self._was_checked, wait_s)
        elif self.session is None:
            left_s = self._ended_at + _BRIEF_WAIT_S - time.monotonic()
            if left_s > 0:
                await self._wait(self._session_began, min(wait_s, left_s))

    @property
    def is_trusted(self) -> bool:
        """Whether every invalidation so far has arrived, but for those whose sender still waits for us."""
        return time.monotonic() < self._trusted_until

    @property
    def is_alone(self) -> bool:
        """Whether no other replica was seen lately; False until Redis could be asked.

        One that said goodbye was seen: its successor may start when Redis is away, and nobody hears of that one.
        """
        return self._has_beaten and self._seen.keys() == {self._name}

    @property
    def name(self) -> str:
        """This replica's name among those that listen."""
        return self._name

    @property
    def peers(self) -> frozenset[str]:
        """The replicas that listened lately, as long as Redis could be asked, this one included.

        One that goes away without saying goodbye is still counted for a while: a Redis that comes back empty knows of
        nobody.
        """
        return frozenset(self._seen.keys() - self._departed)

    def start(self) -> None:
        """Start listening."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop listening."""
        if self._task is not None:
            await cancel_and_wait([self._task])
            with suppress(RedisError, OSError, TimeoutError):
                async with asyncio.timeout(_PAUSE_S):
                    await self._store.redis.zrem(self._store.names.replicas, self._name)
                    await self._store.redis.publish(self._store.names.channel, f"b:{self._name}")

    async def publish(self, tags: Sequence[str], *, pending_until: float) -> None:
        """Publish that *tags* have new generations, and return once no replica answers from older ones.

        Where Redis refuses to publish, the others notice by the number of invalidations: their next heartbeat shows it,
        and they trust their memory for *trust_s* from the one before.

        Raises `StoreUnavailableError` where nothing could be told.
        """
        message = secrets.token_hex(8)
        acknowledged = self._acknowledged[message] = Acknowledgements()
        told = orjson.dumps({"of": message, "to": self._name, "scopes": tags, "unsettled_until": pending_until})
        names = self._store.names
        try:
            listening, counted = await self._store.commands.run(
                "tell", [names.replicas, names.invalidation_log], [names.channel, b"i:", b"%08x:" % crc32(told) + told]
            )
            if listening < 0:
                await asyncio.sleep(self._trust_s)
                return
            expected = parse_replica_names(counted) | (self._seen.keys() - self._departed)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._trust_s):
                    await acknowledged.wait_for_all(expected, count=listening)
        finally:
            del self._acknowledged[message]

    async def wait_for(self, message: str, *, timeout_s: float) -> bool:
        """Return True when *message* arrives or may have been missed, False after *timeout_s*."""
        arrived = asyncio.Event()
        self._waiting.setdefault(message, set()).add(arrived)
        try:
            return await self._wait(arrived, timeout_s)
        finally:
            self._waiting[message].discard(arrived)
            if not self._waiting[message]:
                del self._waiting[message]

    async def _wait(self, happened: asyncio.Event, wait_s: float) -> bool:
        waiting = asyncio.ensure_future(happened.wait())
        try:
            return await self._loop_clock.wait(waiting, wait_s)
        finally:
            waiting.cancel()

    async def _run(self) -> None:
        while True:
            refused = False
            try:
                await self._listen()
            except NoPermissionError:
                refused = True  # it takes commands all the same
                channel = f"{self._store.names.channel}*"
                reason = f"NOPERM: the Redis user lacks a right that this needs, such as the channels &{channel}"
            except Exception as error:  # noqa: BLE001 - whatever it is, it ends one session, and another begins
                reason = str(error) if isinstance(error, StoreUnavailableError) else type(error).__name__
            broke = self._session is not None and not refused
            self._session = self._session if refused else None
            self._ended_at = time.monotonic()
            self._session_began.clear()
            self._was_checked.set()
            self._distrust()
            if not self.down_reason or self.down_reason == _STARTING:
                log_event("invalidation_bus_down", level=logging.WARNING, reason=reason)
            self.down_reason = reason
            await asyncio.sleep(_IMMEDIATE_S if broke else _PAUSE_S)

    async def _listen(self) -> None:
        """Hold one session: until the connection breaks, Redis is another, or something can't be understood."""
        names, servers = self._store.names, self._store.servers
        self.sessions_begun += 1
        async with servers.pubsub_client(names.replicas) as pubsub:
            try:
                await pubsub.subscribe(names.channel, f"{names.channel}:{self._name}")
            except NoPermissionError:
                await self._check_server()
                raise
            await self._check_server()
            self._on_missed()  # whatever was learnt until now may be from before a message that was missed
            self._heard = None
            beat_s = self._trust_s / 3
            sent_at, sent_at_s = 0.0, 0.0  # by the clock, and by heard time
            answered = True
            self._seen = dict.fromkeys(self._seen, time.monotonic())
            while True:
                now = time.monotonic()
                if answered and now - sent_at >= beat_s:
                    sent_at, sent_at_s, answered = now, self._loop_clock.responsive_s, False
                    await self._beat()
                    if self.session is None:
                        raise StoreUnavailableError("redis: another server keeps the invalidations now")
                    await pubsub.ping()
                elif not answered and self._loop_clock.responsive_s - sent_at_s > self._trust_s:
                    raise StoreUnavailableError(f"redis: no reply to a ping within {self._trust_s:g}s")
                message = await pubsub.get_message(timeout=beat_s / 2)
                if message is None:
                    continue
                if message["type"] == "pong":
                    answered = True
                    self._note_pong(sent_at)
                elif message["type"] == "message":
                    await self._receive(message["data"])

    async def _beat(self) -> None:
        kept_s = ceil(2 * self._trust_s) + 1
        names = self._store.names
        published, peers = await self._store.commands.run(
            "beat", [names.replicas, names.invalidation_log], [kept_s, self._name]
        )
        if self._heard is None:
            self._heard = published
        elif published < self._published:
            self._note_missed(published)  # Redis lost the number, and what else nobody knows
        self._published = published
        now = time.monotonic()
        self._seen |= dict.fromkeys((self._name, *parse_replica_names(peers)), now)
        self._seen = {name: at for name, at in self._seen.items() if now - at < _SEEN_S}
        self._departed &= self._seen.keys()
        self._has_beaten = True

    def _note_pong(self, sent_at: float) -> None:
        """Trust memory from the ping at *sent_at* on: every message before it has been read."""
        if self._heard is None or self._heard < self._published:
            self._note_missed(self._published)
        self._trusted_until = sent_at + self._trust_s
        if self.down_reason:
            if self.down_reason != _STARTING:
                log_event("invalidation_bus_up")
            self.down_reason = ""

    def _note_missed(self, number: int) -> None:
        """Forget everything learnt before: invalidations up to *number* were not all received."""
        log_event("invalidations_missed", level=logging.WARNING, last_received=self._heard, published=number)
        self._heard = number
        self._on_missed()

    async def _receive(self, message: bytes) -> None:
        """Apply *message*. One that can't be parsed may have announced a write, so it ends the session."""
        if message.startswith(b"w:"):
            for arrived in self._waiting.get(message.decode(), ()):
                arrived.set()
        elif message.startswith(b"a:"):
            of, _, name = message[2:].decode().partition(":")
            if acknowledged := self._acknowledged.get(of):
                acknowledged.add(name)
        elif message.startswith(b"b:"):
            self._departed.add(message[2:].decode())
        elif message.startswith(b"i:"):
            await self._receive_invalidation(message)

    async def _receive_invalidation(self, message: bytes) -> None:
        number, checksum, told = message[2:].split(b":", 2)
        if int(checksum, 16) != crc32(told):
            raise StoreUnavailableError("redis: an invalidation was altered on its way")
        if self._heard is not None:
            if int(number) > self._heard + 1:
                self._note_missed(int(number))
            self._heard = max(self._heard, int(number))
        said = orjson.loads(told)
        self._apply(said["scopes"], said["unsettled_until"])
        await self._store.redis.publish(f"{self._store.names.channel}:{said['to']}", f"a:{said['of']}:{self._name}")

    async def _check_server(self) -> None:
        """Believe Redis; where it is another than before, once all that is in it counts as invalidated.

        Its log of calls is not believed either; who keeps a budget notices by the life that it has.
        """
        names, commands = self._store.names, self._store.commands
        home = self._store.servers.server_of(names.server_run)
        changed = await commands.run("run", [names.server_run, names.generation(ALL_TAG)], [secrets.token_hex(8)])
        if changed == _RUN_CHANGED:
            async with commands.translate_errors() as redis:
                await redis.delete(names.budgets)
        await self._store.restore_secret()
        if changed or self._session is None:
            self._session = next(self._sessions)
        self._server_run = home
        self._was_checked.set()
        self._session_began.set()

    def _distrust(self) -> None:
        self._trusted_until = 0.0
        self._on_missed()
        for events in self._waiting.values():
            for arrived in events:
                arrived.set()
