"""Passes requests through, and drops what they and their answers show to be out of date.

After a write, stored lists may be wrong; after a 401, or its own deletion, a token is no longer valid.

What a write makes of stored resources (RFC 9111 §4.4).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urljoin, urlsplit

from proxy.auth.authenticators import Door
from proxy.auth.token_acceptance import Credentials
from proxy.core.cache_key import EVERYTHING, listing_scope
from proxy.core.messages import Exchange, Fields, Request
from proxy.core.partition import Partition, Partitioner
from proxy.core.write_effect import SAFE, Touch, taken_for, touch
from proxy.errors import NotInStoreError, ProxyError
from proxy.http.cache_control import directives
from proxy.resources.routes import ResourceRoutes
from proxy.storage.base import SpanStore
from proxy.upstream.forward import Forwarder
from proxy.upstream.keystone import TOKENS_PATH


def changed_resources(request: Request, status: int, fields: Fields, routes: ResourceRoutes) -> list[str]:
    """Return the scopes of the resources that *request* may have changed, answered with *status* and *fields*.

    They are its target, and what `Location` and `Content-Location` name on the same origin. A method that is not known
    to be safe counts as a write. Whoever they are stored for, they are dropped.
    """
    if request.method in SAFE or not 200 <= status < 400:
        return []
    named = [request.target, *(value for name in ("location", "content-location") for value in fields.all(name))]
    host = (request.fields.get("host") or "").lower()
    targets = {target for value in named if (target := _target(request.target, value, host)) is not None}
    return [listing_scope(path, query) for path, query in sorted(targets) if routes.route(path) is not None]


def _target(base: str, reference: str, host: str) -> tuple[str, str] | None:
    """Return path and query of what *reference* names beside *base*, None where that is on another host."""
    try:
        parts = urlsplit(urljoin(base, reference))
    except ValueError:
        return None
    return (parts.path, parts.query) if not parts.netloc or parts.netloc.lower() == host else None


# How long lists live shortly after a write that began a job, seconds: what IMS's image jobs take, and some more.
UNSETTLED_S: Final = 120.0
NOTHING_SAID: Final = Fields()


class LearningForwarder:
    """Passes requests to *forwarder*, and drops from *store* what the exchanges show to be out of date."""

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

        This is done even if the caller of *asked* hangs up, and also after a write whose outcome is unknown because the
        caller went away or the connection broke: it may have reached the upstream.

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
        """Invalidate what the answer to *request*, by its *status* and *fields*, shows to be out of date.

        No request says which projects see the image that it changes, so after a write every list counts as changed,
        and so does every resource.
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
