"""Single answers in the store of spans: each resource is a listing of its own, whose one span holds its answers.

So all that holds for spans holds for them as it is: tiers, claims, generations, expiry, the seal. A resource has
several answers where they vary with the request (RFC 9111 §4.1); they are kept together, so that one look will do.

Layout of the span's body: bytes of the head (8 decimal digits); the head, a JSON array with an object for each answer;
the answers' own bodies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import Any, Final

import orjson

from proxy.core.cache_key import ListingKey
from proxy.core.messages import Fields
from proxy.core.span import HEAD, Span
from proxy.core.values import immutable
from proxy.errors import StoreUnavailableError
from proxy.http.stored_response import StoredAnswer
from proxy.storage.base import Claim, SpanStore, State

_MOST: Final = 8  # answers of one resource; the latest are kept


@immutable
class FoundAnswers:
    """The answers of a resource, the latest first, and the *state* of the resource.

    *current* says that nothing has invalidated them; *moment*, *join_after* and *unconfirmed* see
    `proxy.storage.base.Found`.
    """

    answers: tuple[StoredAnswer, ...]
    state: State
    current: bool
    moment: str = ""
    join_after: float = -inf
    unconfirmed: tuple[StoredAnswer, ...] = ()

    @property
    def doubtful(self) -> bool:
        """Whether there are answers that can't be confirmed now."""
        return bool(self.unconfirmed)

    @property
    def as_last_resort(self) -> FoundAnswers:
        """The same with the answers that can't be confirmed now, for a caller who otherwise gets nothing."""
        return replace(self, answers=self.unconfirmed, current=True) if self.unconfirmed else self


class Answers:
    """Keeps the answers of resources in *store*; while that is away it finds none and keeps none.

    A resource's answers are read and written as one, so only the latest are kept: *most_bytes* of them, one at least.
    """

    def __init__(self, store: SpanStore, *, most_bytes: int = 1 << 20) -> None:
        self._store = store
        self._most_bytes = most_bytes

    async def found(self, key: ListingKey, *, now: float) -> FoundAnswers:
        """Return what is kept under *key*."""
        try:
            found = await self._store.chain(key, HEAD, 1, now=now)
        except StoreUnavailableError:
            return FoundAnswers((), State(""), current=False)
        span = found.pieces[0].span if found.pieces else None
        answers = _unpacked(span.body) if span is not None else ()
        current = span is not None and span.generation == found.state.generation
        doubted = found.unconfirmed[0].span if found.unconfirmed else None
        unconfirmed = _unpacked(doubted.body) if doubted and doubted.generation == found.state.generation else ()
        return FoundAnswers(answers, found.state, current, found.moment, found.join_after, unconfirmed)

    async def put(
        self,
        key: ListingKey,
        answers: Sequence[StoredAnswer],
        *,
        keep_s: float,
        now: float,
        claim: Claim,
    ) -> bool:
        """Keep *answers*, fetched under *claim*, in place of those under *key*; return whether that could be done."""
        latest = sorted(answers, key=lambda each: each.response_time, reverse=True)[:_MOST]
        while len(latest) > 1 and sum(len(each.body) for each in latest) > self._most_bytes:
            latest.pop()
        fetched_at = latest[0].request_time if latest else now
        fresh_until = max((each.fresh_until for each in latest), default=now)
        span = Span(
            after=HEAD,
            end=None,
            ids=(),
            body=_packed(latest),
            starts=(),
            ends=(),
            asked=1,
            fetched_at=fetched_at,
            lifetime_s=max(0.0, fresh_until - fetched_at),
            generation=claim.state.generation,
        )
        try:
            await self._store.put(key, span, keep_s=keep_s, now=now, fence=claim.fence or 0)
        except StoreUnavailableError:
            return False
        return True


def _packed(answers: Sequence[StoredAnswer]) -> bytes:
    head = orjson.dumps(
        [
            {
                "status": each.status,
                "reason": None if each.reason is None else _storable(each.reason),
                "fields": [(name, _storable(value)) for name, value in each.fields],
                "bytes": len(each.body),
                "request_time": each.request_time,
                "response_time": each.response_time,
                "lifetime_s": each.lifetime_s,
                "nominated": [(name, None if value is None else _storable(value)) for name, value in each.nominated],
            }
            for each in answers
        ]
    )
    return b"".join((b"%08d" % len(head), head, *(each.body for each in answers)))


def _unpacked(body: bytes) -> tuple[StoredAnswer, ...]:
    """Return the answers in *body*, none where it is laid out by another release."""
    try:
        at = 8 + int(body[:8])
        answers = []
        for each in orjson.loads(body[8:at]):
            answers.append(_answer(each, body[at : at + each["bytes"]]))
            at += each["bytes"]
    except (ValueError, KeyError, TypeError):
        return ()
    return tuple(answers)


def _answer(each: dict[str, Any], body: bytes) -> StoredAnswer:
    return StoredAnswer(
        status=each["status"],
        reason=None if each["reason"] is None else _given(each["reason"]),
        fields=Fields((name, _given(value)) for name, value in each["fields"]),
        body=body,
        request_time=each["request_time"],
        response_time=each["response_time"],
        lifetime_s=each["lifetime_s"],
        nominated=tuple((name, None if value is None else _given(value)) for name, value in each["nominated"]),
    )


def _storable(value: str) -> str:
    """Return *value* with each of its bytes as a character: a field may hold what is no UTF-8, and JSON may not."""
    return value.encode("utf-8", "surrogateescape").decode("latin-1")


def _given(value: str) -> str:
    return value.encode("latin-1").decode("utf-8", "surrogateescape")
