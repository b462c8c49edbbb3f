"""Forwards requests, and invalidates what they and their answers show to be out of date.

After a write, stored lists may be wrong; after a 401, or its own deletion, a token is no longer valid.

Resources are invalidated by RFC 9111 §4.4.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urljoin, urlsplit

from proxy.auth.authenticators import Authenticator
from proxy.auth.token_acceptance import TokenAcceptance
from proxy.core.cache_key import ALL_TAG, listing_tag
from proxy.core.messages import Fields, Request, StreamedResponse
from proxy.core.partition import Partition, Partitioner
from proxy.core.write_effect import SAFE_METHODS, WriteEffect, effective_status, write_effect
from proxy.errors import NotCachedError, ProxyError
from proxy.http.cache_control import parse_request_directives
from proxy.resources.routes import ResourceRoutes
from proxy.storage.base import Coordinator
from proxy.upstream.forward import Forwarder
from proxy.upstream.keystone import TOKENS_PATH


def changed_resource_tags(request: Request, status: int, fields: Fields, routes: ResourceRoutes) -> list[str]:
    """Return the scopes of the resources that *request* may have changed, answered with *status* and *fields*.

    They are its target, and what `Location` and `Content-Location` name on the same origin. A method that is not known
    to be safe counts as a write. Whoever they are stored for, they are dropped.
    """
    if request.method in SAFE_METHODS or not 200 <= status < 400:
        return []
    named = [request.target, *(value for name in ("location", "content-location") for value in fields.get_all(name))]
    host = (request.fields.get("host") or "").lower()
    targets = {target for value in named if (target := _same_origin_target(request.target, value, host)) is not None}
    return [listing_tag(path, query) for path, query in sorted(targets) if routes.find(path) is not None]


def _same_origin_target(base: str, reference: str, host: str) -> tuple[str, str] | None:
    """Return path and query of what *reference* names beside *base*, None where that is on another host."""
    try:
        parts = urlsplit(urljoin(base, reference))
    except ValueError:
        return None
    return (parts.path, parts.query) if not parts.netloc or parts.netloc.lower() == host else None


# How long lists live shortly after a write that began a job, seconds: what IMS's image jobs take, and some more.
JOB_PENDING_S: Final = 120.0
EMPTY_FIELDS: Final = Fields()


class InvalidatingForwarder:
    """Passes requests to *forwarder*, and drops from *store* what the exchanges show to be out of date."""

    def __init__(
        self,
        forwarder: Forwarder,
        store: Coordinator,
        *,
        partitioner: Partitioner,
        acceptance: TokenAcceptance,
        authenticator: Authenticator,
        routes: ResourceRoutes,
        clock: Callable[[], float],
    ) -> None:
        self._forwarder = forwarder
        self._store = store
        self._partitioner = partitioner
        self._acceptance = acceptance
        self._authenticator = authenticator
        self._routes = routes
        self._clock = clock
        self._invalidation_tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def stream(self, upstream_request: Request, *, client_request: Request) -> AsyncIterator[StreamedResponse]:
        """Give the upstream's answer to *upstream_request*, once what it says of stored lists has been taken from it.

        This is done even if the caller of *client_request* hangs up, and also after a write whose outcome is unknown
        because the caller went away or the connection broke: it may have reached the upstream.

        Raises `NotCachedError` where that caller takes only what is stored.
        """
        if client_request.method in ("GET", "HEAD") and parse_request_directives(client_request.fields).only_if_cached:
            raise NotCachedError("request: not answered from the store, and the caller sent only-if-cached")
        answered = False
        try:
            async with self._forwarder.stream(upstream_request) as streamed:
                answered = True
                await asyncio.shield(self._start_invalidation(client_request, streamed.status, streamed.fields))
                yield streamed
        except asyncio.CancelledError:
            if not answered:
                self._start_invalidation(client_request, 200)
            raise
        except ProxyError as error:
            if error.may_have_arrived and not answered:
                await asyncio.shield(self._start_invalidation(client_request, 200))
            raise

    async def close(self) -> None:
        """Wait until all that is under way has been learnt; each of it has a time limit."""
        await asyncio.gather(*self._invalidation_tasks, return_exceptions=True)

    def _start_invalidation(self, request: Request, status: int, fields: Fields = EMPTY_FIELDS) -> asyncio.Task[None]:
        task = asyncio.create_task(self._invalidate(request, status, fields))
        self._invalidation_tasks.add(task)
        task.add_done_callback(self._invalidation_tasks.discard)
        return task

    async def _invalidate(self, request: Request, status: int, fields: Fields) -> None:
        """Invalidate what the answer to *request*, by its *status* and *fields*, shows to be out of date.

        No request says which projects see the image that it changes, so after a write every list counts as changed,
        and so does every resource.
        """
        final_status = effective_status(status)
        effect = write_effect(request.method, request.path, final_status)
        if effect is not WriteEffect.NOTHING:
            pending_s = JOB_PENDING_S if effect is WriteEffect.JOB_STARTED else 0.0
            await self._store.invalidate([ALL_TAG], pending_s=pending_s, now=self._clock())
        elif changed := changed_resource_tags(request, final_status, fields, self._routes):
            await self._store.invalidate(changed, now=self._clock())
        if status == 401 and isinstance(partition := self._partitioner.from_fields(request.fields), Partition):
            await self._acceptance.record_rejection(self._authenticator.principal_for_partition(partition))
        subject = request.fields.get("x-subject-token")
        if subject and request.method == "DELETE" and request.path == TOKENS_PATH and 200 <= status < 300:
            await self._acceptance.record_rejection(
                self._authenticator.principal_for_partition(self._partitioner.for_token(subject)), force=True
            )
