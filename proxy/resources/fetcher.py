"""Fetches resources; those who ask for the same share a fetch, as `proxy.caching.collapsing` has it.

A fetch can end in one way that a span's can't: the answer is too long to be kept. Then the callers are told so, and the
request of each goes through on its own.

Asks the upstream for a resource, and reads the answer as far as it may be kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from proxy.caching.collapsing import OF_THE_CALL, PERSONAL, Sharing, without_its_call
from proxy.core.freshness import Standing
from proxy.core.list_api import about_to_change
from proxy.core.messages import Exchange, Request, Response
from proxy.core.values import immutable
from proxy.errors import UpstreamTimeoutError, UpstreamUnreachableError
from proxy.http.cache_control import control
from proxy.http.conditional import conditions, updated, validated
from proxy.http.dates import dated
from proxy.http.stored_response import StoredAnswer, freshness_lifetime_s
from proxy.observability.logging import Telemetry
from proxy.resources.request import ResourceAsk
from proxy.resources.storability import is_json, nominated, selected, selects, unstorable, varies
from proxy.storage.base import Claim, SpanStore
from proxy.storage.serialization import Answers, FoundAnswers
from proxy.upstream.forward import Forwarder


@immutable
class Received:
    """A response, and between which times, epoch seconds, it was fetched; unless it is *whole* its body is missing."""

    response: Response
    request_time: float
    response_time: float
    whole: bool


class Receiver:
    """Asks through *forwarder*. *clock* gives epoch seconds.

    A body longer than *most_bytes* is not read to its end, and one that takes longer than *within_s* is given up.
    """

    def __init__(self, forwarder: Forwarder, *, most_bytes: int, within_s: float, clock: Callable[[], float]) -> None:
        self._forwarder = forwarder
        self._most_bytes = most_bytes
        self._within_s = within_s
        self._clock = clock

    async def received(self, ask: ResourceAsk, asked: Iterable[tuple[str, str]], purpose: str) -> Received:
        """Return what the upstream answers to *ask* on the conditions that were *asked*."""
        request_time = self._clock()
        request = Request("GET", ask.target, ask.fields.plus(*asked), ask.asked.request_id)
        # Who began the fetch is told what comes before the answer, for as long as nothing was sent to it.
        request = replace(request, claimant=ask.claimant.calling_for(purpose), interim=ask.asked.interim)
        if ask.who.signing is not None:
            request = ask.who.signing.signed(request, now=request_time)
        async with self._forwarder.exchange(request, purpose=purpose) as exchange:
            response_time = self._clock()
            body = await self._body(exchange)
        fields = dated(exchange.fields, now=response_time)
        response = Response(exchange.status, fields, body or b"", exchange.reason)
        return Received(response, request_time, response_time, whole=body is not None)

    async def _body(self, exchange: Exchange) -> bytes | None:
        """Return the whole body, None where it is too long to be kept."""
        length = exchange.fields.get("content-length") or "0"
        if length.isascii() and length.isdecimal() and int(length) > self._most_bytes:
            return None
        chunks, size = [], 0
        try:
            async with asyncio.timeout(self._within_s):
                async for chunk in exchange.chunks:
                    chunks.append(chunk)
                    size += len(chunk)
                    if size > self._most_bytes:
                        return None
        except TimeoutError as error:
            raise UpstreamTimeoutError(f"upstream: no whole answer within {self._within_s:g}s") from error
        return b"".join(chunks)


_SECRETS: Final = frozenset({"set-cookie", "x-subject-token"})
_THROTTLED: Final = 429
_FORGOTTEN_S: Final = 1.0  # how long it stands that nothing is kept


@immutable
class FetchedAnswer:
    """How a fetch ended: an *answer* to share among equal requests, or a *response* for the caller who fetched it.

    There is neither if the upstream's answer is too *large* to be kept. *shared* says that another replica fetched the
    answer, *withheld* are field lines of it that only the caller who fetched it gets.
    """

    status: int
    answer: StoredAnswer | None = None
    response: Response | None = None
    stored: bool = False
    shared: bool = False
    large: bool = False
    withheld: tuple[tuple[str, str], ...] = ()
    detail: str | None = None


class ResourceFetcher:
    """Fetches answers and stores them. *clock* gives epoch seconds.

    A body longer than *most_bytes* is not kept, and one that takes longer than *within_s* is given up.
    """

    def __init__(
        self,
        forwarder: Forwarder,
        store: SpanStore,
        *,
        most_bytes: int,
        within_s: float,
        telemetry: Telemetry,
        clock: Callable[[], float],
    ) -> None:
        self._receiver = Receiver(forwarder, most_bytes=most_bytes, within_s=within_s, clock=clock)
        self._answers = Answers(store, most_bytes=most_bytes)
        self._clock = clock
        self._sharing: Sharing[FetchedAnswer] = Sharing(store, telemetry=telemetry, clock=clock)

    async def close(self) -> None:
        """End the fetches that are under way."""
        await self._sharing.close()

    async def found(self, ask: ResourceAsk) -> FoundAnswers:
        """Return what is kept of the resource."""
        return await self._answers.found(ask.key, now=self._clock())

    async def fetched(
        self, ask: ResourceAsk, found: FoundAnswers, *, purpose: str = "resource"
    ) -> tuple[FetchedAnswer, bool]:
        """Return how fetching *ask* ended, and whether another caller's fetch did it.

        Raises `ProxyError` where the upstream gave no answer.
        """
        got = await self._sharing.shared(
            (ask.key.digest, found.state.generation, ask.flight),
            lambda: self._claimed(ask, found, purpose),
            serves=lambda fetched, failed: _serves(ask, fetched, failed),
            join_after=found.join_after,
        )
        if got is None:
            return await self._fetch(ask, found, Claim(found.state, 0), purpose), False
        fetched, follows = got
        if follows and fetched.response is not None:
            fetched = replace(fetched, response=without_its_call(fetched.response))
        return fetched, follows or fetched.shared

    async def _claimed(self, ask: ResourceAsk, found: FoundAnswers, purpose: str) -> FetchedAnswer:
        return await self._sharing.claimed(
            ask.key,
            ask.flight,
            lambda claim: self._fetch(ask, found, claim, purpose),
            elsewhere=lambda: self._elsewhere(ask, found),
            generation=found.state.generation,
        )

    async def _fetch(self, ask: ResourceAsk, found: FoundAnswers, claim: Claim, purpose: str) -> FetchedAnswer:
        known = chosen(ask, found)
        received = await self._receiver.received(ask, conditions(known) if known else (), purpose)
        if received.response.status == 304 and known and not validated(known, received.response.fields):
            known, received = None, await self._receiver.received(ask, (), purpose)
        if received.whole is False:
            return FetchedAnswer(received.response.status, large=True, detail="large")
        status = received.response.status
        if status == 304:
            if known is None:
                raise UpstreamUnreachableError("upstream: 304 to a request without a condition")
            fields = updated(known.fields, received.response.fields)
            received = replace(received, response=Response(known.status, fields, known.body, known.reason))
        return await self._judged(ask, found, claim, status, received)

    async def _judged(
        self, ask: ResourceAsk, found: FoundAnswers, claim: Claim, status: int, received: Received
    ) -> FetchedAnswer:
        """Return whether all may share what was *received*, or only who asked; what all may share is stored.

        *status* is what the upstream answered. After a 304 what was *received* is the stored answer with its fields
        updated, and judged anew: the 304 may have added what is about the caller alone.
        """
        answer, why_not = _stored_answer(ask, received)
        if why_not is None:
            return await self._shareable(status, ask, found, claim, answer)
        if found.answers and _speaks_of_it(ask, status):
            await self._keep(ask, found, claim, None)  # a newer answer, though one that is not stored, supersedes it
        return FetchedAnswer(status, response=received.response, detail=why_not)

    async def _shareable(
        self, status: int, ask: ResourceAsk, found: FoundAnswers, claim: Claim, answer: StoredAnswer
    ) -> FetchedAnswer:
        """Store *answer* without the fields that only its caller may see, and return it as others may have it."""
        if ask.route.images and claim.state.unsettled:
            answer = replace(answer, lifetime_s=min(answer.lifetime_s, ask.route.transient_ttl_s))
        named = answer.control.withheld if ask.route.vary else answer.control.withheld | OF_THE_CALL
        shared = replace(answer, fields=answer.fields.without(named))
        stored = await self._keep(ask, found, claim, shared)
        return FetchedAnswer(status, shared, stored=stored, withheld=answer.fields.only(named).lines)

    async def _keep(self, ask: ResourceAsk, found: FoundAnswers, claim: Claim, answer: StoredAnswer | None) -> bool:
        """Store *answer*, None for none, in place of the one that *ask* selects; answers to other requests stay."""
        now = self._clock()
        as_current = found.current and found.state.generation == claim.state.generation
        replaced = chosen(ask, found)
        answers = [each for each in found.answers if as_current and each is not replaced]
        if answer is not None:
            answers.append(answer)
        keep_s = max((each.of_use_s(ask.route.policy, now=now) for each in answers), default=_FORGOTTEN_S)
        return await self._answers.put(ask.key, answers, keep_s=keep_s, now=now, claim=claim)

    async def _elsewhere(self, ask: ResourceAsk, seen: FoundAnswers) -> FetchedAnswer | None:
        """Return what another replica has fetched, if it can be used.

        An answer that was *seen* before the fetch can't be, however fresh: this caller has demanded a newer one, or was
        last accepted by the upstream too long ago.
        """
        found, wanting = await self.found(ask), chosen(ask, seen)
        answer = chosen(ask, found)
        if answer is None or not found.current or (wanting and answer.request_time <= wanting.request_time):
            return None
        fresh = answer.standing(ask.route.policy, now=self._clock()) is Standing.FRESH
        return FetchedAnswer(answer.status, answer, stored=True, shared=True) if fresh else None


def _stored_answer(ask: ResourceAsk, received: Received) -> tuple[StoredAnswer, str | None]:
    """Return what was *received* for *ask* as it would be stored, and why it must not be, None where it may."""
    response = received.response
    lifetime_s = freshness_lifetime_s(
        response.status, response.fields, ask.route.policy, response_time=received.response_time
    )
    answer = StoredAnswer(
        status=response.status,
        reason=response.reason,
        fields=response.fields,
        body=response.body,
        request_time=received.request_time,
        response_time=received.response_time,
        lifetime_s=lifetime_s or 0.0,
        nominated=nominated(ask.fields, varies(response.fields)) if ask.route.vary else (),
    )
    return answer, _unstorable(ask, answer, stated=lifetime_s is not None)


def _unstorable(ask: ResourceAsk, answer: StoredAnswer, *, stated: bool) -> str | None:
    """Return why *answer* must not be stored, None where it may; *stated* says that something gave it a lifetime."""
    if why_not := unstorable(
        answer,
        stated=stated,
        authorized=ask.authorized,
        public=ask.route.public,
        by_rfc=ask.route.vary,
    ):
        return why_not
    if ask.route.images and about_to_change(answer.body):
        return "transient"
    return "not-json" if ask.route.json and not is_json(answer.body) else None


def _speaks_of_it(ask: ResourceAsk, status: int) -> bool:
    """Whether an answer with *status* is about the resource itself, and so supersedes what is stored of it.

    A failure is not, nor is a refusal of one call too many. On a public route a refused caller is not either: anyone
    may ask there, with any token.
    """
    return status < 500 and status != _THROTTLED and not (ask.route.public and status in PERSONAL)


def _serves(ask: ResourceAsk, fetched: FetchedAnswer, failed: bool) -> bool:
    """Whether a caller may take what another caller's fetch has brought; *failed* says that a first one was no use.

    On a public route only an answer that may be stored there is shared.
    """
    if fetched.large:
        return True
    if fetched.answer is not None:
        return selects(ask.fields, fetched.answer)
    refused = fetched.status == 401 and ask.who.signing is not None
    own = ask.route.public or fetched.response is None or about_who_asked(fetched.response)
    return refused or (failed and not own)


def about_who_asked(response: Response) -> bool:
    """Whether *response* is for one caller alone, by its status, its `Cache-Control`, or a secret in its fields."""
    said = control(response.fields)
    secret = response.fields.any(_SECRETS)
    return response.status in PERSONAL or said.no_store or said.private or secret


def chosen(ask: ResourceAsk, found: FoundAnswers) -> StoredAnswer | None:
    """Return the latest answer that *ask* selects (RFC 9111 §4.1), fresh or not."""
    return selected(ask.fields, found.answers)
