"""Passes requests through, and takes from them and their answers what that says of stored ones.

A write makes lists untrue, a 401 says that a token is worth nothing, and so does its deletion.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from proxy.core.directives import directives
from proxy.core.identity import Partition, Partitioner
from proxy.core.keys import EVERYTHING
from proxy.core.messages import Fields, Request
from proxy.core.rfc9111.invalidation import changed_resources
from proxy.core.rfc9111.routes import ResourceRoutes
from proxy.core.tokens import TOKENS_PATH
from proxy.core.writes import Touch, taken_for, touch
from proxy.errors import NotInStoreError, ProxyError
from proxy.gateway.credentials import Credentials
from proxy.gateway.doors import Door
from proxy.gateway.forward import Forwarder
from proxy.stores.base import SpanStore
from proxy.upstream.base import Exchange

# How long lists live shortly after a write that began a job, seconds: what IMS's image jobs take, and some more.
UNSETTLED_S: Final = 120.0
NOTHING_SAID: Final = Fields()


class LearningForwarder:
    """Gives exchanges of *forwarder*'s, and drops from *store* what they show to be untrue."""

    def __init__(
        self,
        forwarder: Forwarder,
        store: SpanStore,
        *,
        partitions: Partitioner,
        credentials: Credentials,
        door: Door,
        routes: ResourceRoutes,
        clock: Callable[[], float],
    ) -> None:
        self._forwarder = forwarder
        self._store = store
        self._partitions = partitions
        self._credentials = credentials
        self._door = door
        self._routes = routes
        self._clock = clock
        self._learning: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def exchange(self, onward: Request, *, asked: Request) -> AsyncIterator[Exchange]:
        """Give the upstream's answer to *onward*, once what it says of stored lists has been taken from it.

        That is done whether the caller of *asked* waits for it or not, and also where a write may have arrived of which
        nobody knows how it ended: the caller went away, or the connection broke.

        Raises `NotInStoreError` where that caller takes only what is stored.
        """
        if asked.method in ("GET", "HEAD") and directives(asked.fields).only_if_cached:
            raise NotInStoreError("request: not answered from the store, and the caller sent only-if-cached")
        answered = False
        try:
            async with self._forwarder.exchange(onward) as exchange:
                answered = True
                await asyncio.shield(self._learns(asked, exchange.status, exchange.fields))
                yield exchange
        except asyncio.CancelledError:
            if not answered:
                self._learns(asked, 200)
            raise
        except ProxyError as error:
            if error.arrived and not answered:
                await asyncio.shield(self._learns(asked, 200))
            raise

    async def close(self) -> None:
        """Wait until all that is under way has been learnt; each of it has a time limit."""
        await asyncio.gather(*self._learning, return_exceptions=True)

    def _learns(self, request: Request, status: int, fields: Fields = NOTHING_SAID) -> asyncio.Task[None]:
        task = asyncio.create_task(self._learn(request, status, fields))
        self._learning.add(task)
        task.add_done_callback(self._learning.discard)
        return task

    async def _learn(self, request: Request, status: int, fields: Fields) -> None:
        """Take from what was passed through what it says of stored answers, before its answer is.

        Which projects see the image that a write changed stands in no request, so every list counts as changed, and
        every resource with them.
        """
        ended = taken_for(status)
        touched = touch(request.method, request.path, ended)
        if touched is not Touch.NOTHING:
            unsettled_s = UNSETTLED_S if touched is Touch.BEGINS else 0.0
            await self._store.invalidate([EVERYTHING], unsettled_s=unsettled_s, now=self._clock())
        elif changed := changed_resources(request, ended, fields, self._routes):
            await self._store.invalidate(changed, now=self._clock())
        if status == 401 and isinstance(partition := self._partitions.of(request.fields), Partition):
            await self._credentials.rejected(self._door.holder(partition))
        subject = request.fields.get("x-subject-token")
        if subject and request.method == "DELETE" and request.path == TOKENS_PATH and 200 <= status < 300:
            await self._credentials.rejected(self._door.holder(self._partitions.token(subject)), surely=True)
