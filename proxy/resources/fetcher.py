"""Fetches resources; those who ask for the same share a fetch, as `proxy.caching.collapsing` has it.

A fetch can end in one way that a span's can't: the answer is too long to be kept. Then the callers are told so, and the
request of each goes through on its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from proxy.caching.collapsing import PER_CALL_FIELDS, PERSONAL_STATUSES, FetchCollapser, without_per_call_fields
from proxy.core.freshness import Freshness
from proxy.core.list_api import is_transient_image
from proxy.core.messages import Request, Response, StreamedResponse
from proxy.core.values import immutable
from proxy.errors import UpstreamTimeoutError, UpstreamUnreachableError
from proxy.http.cache_control import parse_response_directives
from proxy.http.conditional import freshen_fields, is_validated_by, validation_conditions
from proxy.http.dates import with_date
from proxy.http.stored_response import StoredResponse, freshness_lifetime_s
from proxy.observability.logging import Telemetry
from proxy.resources.request import ResourceRequest
from proxy.resources.storability import is_json, is_selected_by, nominate_fields, select, unstorable_reason, vary_names
from proxy.storage.base import FetchLock, SpanStore
from proxy.storage.serialization import FoundResponses, ResponseStorage
from proxy.upstream.forward import Forwarder


@immutable
class ReceivedResponse:
    """A response, and between which times, epoch seconds, it was fetched; unless it is *is_complete* its body is
    missing.
    """

    response: Response
    request_time: float
    response_time: float
    is_complete: bool


class ResponseReceiver:
    """Asks through *forwarder*. *clock* gives epoch seconds.

    A body longer than *max_bytes* is not read to its end, and one that takes longer than *time_limit_s* is given up.
    """

    def __init__(
        self, forwarder: Forwarder, *, max_bytes: int, time_limit_s: float, clock: Callable[[], float]
    ) -> None:
        self._forwarder = forwarder
        self._max_bytes = max_bytes
        self._time_limit_s = time_limit_s
        self._clock = clock

    async def receive(
        self, resource_request: ResourceRequest, conditions: Iterable[tuple[str, str]], purpose: str
    ) -> ReceivedResponse:
        """Return what the upstream answers to *resource_request* on the conditions that were *conditions*."""
        request_time = self._clock()
        request = Request(
            "GET",
            resource_request.target,
            resource_request.fields.plus(*conditions),
            resource_request.client_request.request_id,
        )
        # Who began the fetch is told what comes before the answer, for as long as nothing was sent to it.
        request = replace(
            request,
            context=resource_request.context.for_purpose(purpose),
            on_interim=resource_request.client_request.on_interim,
        )
        if resource_request.principal.signer is not None:
            request = resource_request.principal.signer.sign(request, now=request_time)
        async with self._forwarder.stream(request, purpose=purpose) as streamed:
            response_time = self._clock()
            body = await self._read_body(streamed)
        fields = with_date(streamed.fields, now=response_time)
        response = Response(streamed.status, fields, body or b"", streamed.reason)
        return ReceivedResponse(response, request_time, response_time, is_complete=body is not None)

    async def _read_body(self, streamed: StreamedResponse) -> bytes | None:
        """Return the whole body, None where it is too long to be kept."""
        length = streamed.fields.get("content-length") or "0"
        if length.isascii() and length.isdecimal() and int(length) > self._max_bytes:
            return None
        chunks, size = [], 0
        try:
            async with asyncio.timeout(self._time_limit_s):
                async for chunk in streamed.chunks:
                    chunks.append(chunk)
                    size += len(chunk)
                    if size > self._max_bytes:
                        return None
        except TimeoutError as error:
            raise UpstreamTimeoutError(f"upstream: no whole answer within {self._time_limit_s:g}s") from error
        return b"".join(chunks)


_SECRETS: Final = frozenset({"set-cookie", "x-subject-token"})
_THROTTLED: Final = 429
_NOTHING_KEPT_S: Final = 1.0  # how long it stands that nothing is kept


@immutable
class ResourceOutcome:
    """How a fetch ended: an *stored_response* to share among equal requests, or a *response* for the caller who fetched
    it.

    There is neither if the upstream's answer is too *is_too_large* to be kept. *by_another_replica* says that another
    replica fetched the answer, *restricted_lines* are field lines of it that only the caller who fetched it gets.
    """

    status: int
    stored_response: StoredResponse | None = None
    response: Response | None = None
    stored: bool = False
    by_another_replica: bool = False
    is_too_large: bool = False
    restricted_lines: tuple[tuple[str, str], ...] = ()
    detail: str | None = None


class ResourceFetcher:
    """Fetches answers and stores them. *clock* gives epoch seconds.

    A body longer than *max_bytes* is not kept, and one that takes longer than *time_limit_s* is given up.
    """

    def __init__(
        self,
        forwarder: Forwarder,
        store: SpanStore,
        *,
        max_bytes: int,
        time_limit_s: float,
        telemetry: Telemetry,
        clock: Callable[[], float],
    ) -> None:
        self._receiver = ResponseReceiver(forwarder, max_bytes=max_bytes, time_limit_s=time_limit_s, clock=clock)
        self._responses = ResponseStorage(store, most_bytes=max_bytes)
        self._clock = clock
        self._collapser: FetchCollapser[ResourceOutcome] = FetchCollapser(store, telemetry=telemetry, clock=clock)

    async def close(self) -> None:
        """End the fetches that are under way."""
        await self._collapser.close()

    async def find(self, request: ResourceRequest) -> FoundResponses:
        """Return what is kept of the resource."""
        return await self._responses.find(request.key, now=self._clock())

    async def fetch(
        self, request: ResourceRequest, found: FoundResponses, *, purpose: str = "resource"
    ) -> tuple[ResourceOutcome, bool]:
        """Return how fetching *request* ended, and whether another caller's fetch did it.

        Raises `ProxyError` where the upstream gave no answer.
        """
        got = await self._collapser.collapse(
            (request.key.digest, found.state.generation, request.collapse_key),
            lambda: self._fetch_locked(request, found, purpose),
            is_usable=lambda fetched, failed: _is_usable(request, fetched, failed),
            join_after=found.join_after,
        )
        if got is None:
            return await self._fetch_from_upstream(request, found, FetchLock(found.state, 0), purpose), False
        outcome, collapsed = got
        if collapsed and outcome.response is not None:
            outcome = replace(outcome, response=without_per_call_fields(outcome.response))
        return outcome, collapsed or outcome.by_another_replica

    async def _fetch_locked(self, request: ResourceRequest, found: FoundResponses, purpose: str) -> ResourceOutcome:
        return await self._collapser.fetch_locked(
            request.key,
            request.collapse_key,
            lambda claim: self._fetch_from_upstream(request, found, claim, purpose),
            find_fetched=lambda: self._find_fetched(request, found),
            generation=found.state.generation,
        )

    async def _fetch_from_upstream(
        self, request: ResourceRequest, found: FoundResponses, lock: FetchLock, purpose: str
    ) -> ResourceOutcome:
        known = select_response(request, found)
        received = await self._receiver.receive(request, validation_conditions(known) if known else (), purpose)
        if received.response.status == 304 and known and not is_validated_by(known, received.response.fields):
            known, received = None, await self._receiver.receive(request, (), purpose)
        if received.is_complete is False:
            return ResourceOutcome(received.response.status, is_too_large=True, detail="body-too-large")
        status = received.response.status
        if status == 304:
            if known is None:
                raise UpstreamUnreachableError("upstream: 304 to a request without a condition")
            fields = freshen_fields(known.fields, received.response.fields)
            received = replace(received, response=Response(known.status, fields, known.body, known.reason))
        return await self._evaluate(request, found, lock, status, received)

    async def _evaluate(
        self, request: ResourceRequest, found: FoundResponses, lock: FetchLock, status: int, received: ReceivedResponse
    ) -> ResourceOutcome:
        """Return whether all may share what was *received*, or only who asked; what all may share is stored.

        *status* is what the upstream answered. After a 304 what was *received* is the stored answer with its fields
        updated, and judged anew: the 304 may have added what is about the caller alone.
        """
        answer, why_not = _to_stored_response(request, received)
        if why_not is None:
            return await self._store_and_share(status, request, found, lock, answer)
        if found.responses and _describes_resource(request, status):
            await self._store(
                request, found, lock, None
            )  # a newer answer, though one that is not stored, supersedes it
        return ResourceOutcome(status, response=received.response, detail=why_not)

    async def _store_and_share(
        self, status: int, request: ResourceRequest, found: FoundResponses, lock: FetchLock, answer: StoredResponse
    ) -> ResourceOutcome:
        """Store *answer* without the fields that only its caller may see, and return it as others may have it."""
        if request.route.depends_on_images and lock.state.changes_pending:
            answer = replace(answer, lifetime_s=min(answer.lifetime_s, request.route.transient_ttl_s))
        named = (
            answer.directives.restricted_fields
            if request.route.by_vary
            else answer.directives.restricted_fields | PER_CALL_FIELDS
        )
        shared = replace(answer, fields=answer.fields.without(named))
        stored = await self._store(request, found, lock, shared)
        return ResourceOutcome(status, shared, stored=stored, restricted_lines=answer.fields.select(named).lines)

    async def _store(
        self, request: ResourceRequest, found: FoundResponses, lock: FetchLock, stored: StoredResponse | None
    ) -> bool:
        """Store *stored*, None for none, in place of the one that *request* selects; answers to other requests stay."""
        now = self._clock()
        as_current = found.is_current and found.state.generation == lock.state.generation
        replaced = select_response(request, found)
        answers = [each for each in found.responses if as_current and each is not replaced]
        if stored is not None:
            answers.append(stored)
        keep_s = max((each.useful_s(request.route.policy, now=now) for each in answers), default=_NOTHING_KEPT_S)
        return await self._responses.put(request.key, answers, keep_s=keep_s, now=now, lock=lock)

    async def _find_fetched(self, request: ResourceRequest, seen: FoundResponses) -> ResourceOutcome | None:
        """Return what another replica has fetched, if it can be used.

        An answer that was *seen* before the fetch can't be, however fresh: this caller has demanded a newer one, or was
        last accepted by the upstream too long ago.
        """
        found, wanting = await self.find(request), select_response(request, seen)
        answer = select_response(request, found)
        if answer is None or not found.is_current or (wanting and answer.request_time <= wanting.request_time):
            return None
        fresh = answer.freshness(request.route.policy, now=self._clock()) is Freshness.FRESH
        return ResourceOutcome(answer.status, answer, stored=True, by_another_replica=True) if fresh else None


def _to_stored_response(request: ResourceRequest, received: ReceivedResponse) -> tuple[StoredResponse, str | None]:
    """Return what was *received* for *request* as it would be stored, and why it must not be, None where it may."""
    response = received.response
    lifetime_s = freshness_lifetime_s(
        response.status, response.fields, request.route.policy, response_time=received.response_time
    )
    answer = StoredResponse(
        status=response.status,
        reason=response.reason,
        fields=response.fields,
        body=response.body,
        request_time=received.request_time,
        response_time=received.response_time,
        lifetime_s=lifetime_s or 0.0,
        nominated=nominate_fields(request.fields, vary_names(response.fields)) if request.route.by_vary else (),
    )
    return answer, _unstorable_reason(request, answer, stated=lifetime_s is not None)


def _unstorable_reason(request: ResourceRequest, stored: StoredResponse, *, stated: bool) -> str | None:
    """Return why *stored* must not be stored, None where it may; *stated* says that something gave it a lifetime."""
    if why_not := unstorable_reason(
        stored,
        stated=stated,
        authorized=request.has_authorization,
        public=request.route.is_public,
        by_rfc=request.route.by_vary,
    ):
        return why_not
    if request.route.depends_on_images and is_transient_image(stored.body):
        return "transient"
    return "not-json" if request.route.requires_json and not is_json(stored.body) else None


def _describes_resource(request: ResourceRequest, status: int) -> bool:
    """Whether an answer with *status* is about the resource itself, and so supersedes what is stored of it.

    A failure is not, nor is a refusal of one call too many. On a public route a refused caller is not either: anyone
    may ask there, with any token.
    """
    return status < 500 and status != _THROTTLED and not (request.route.is_public and status in PERSONAL_STATUSES)


def _is_usable(request: ResourceRequest, outcome: ResourceOutcome, failed: bool) -> bool:
    """Whether a caller may take what another caller's fetch has brought; *failed* says that a first one was no use.

    On a public route only an answer that may be stored there is shared.
    """
    if outcome.is_too_large:
        return True
    if outcome.stored_response is not None:
        return is_selected_by(request.fields, outcome.stored_response)
    refused = outcome.status == 401 and request.principal.signer is not None
    own = request.route.is_public or outcome.response is None or is_personal(outcome.response)
    return refused or (failed and not own)


def is_personal(response: Response) -> bool:
    """Whether *response* is for one caller alone, by its status, its `Cache-Control`, or a secret in its fields."""
    said = parse_response_directives(response.fields)
    secret = response.fields.contains_any(_SECRETS)
    return response.status in PERSONAL_STATUSES or said.no_store or said.private or secret


def select_response(request: ResourceRequest, found: FoundResponses) -> StoredResponse | None:
    """Return the latest answer that *request* selects (RFC 9111 §4.1), fresh or not."""
    return select(request.fields, found.responses)
