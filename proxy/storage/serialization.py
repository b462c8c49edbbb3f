"""Spans as bytes. A value of another version, a damaged one, or one moved to another key is no span.

Layout: magic and version (4), tag (16), then decimal digits that the scripts read too: fetched at (15, milliseconds
since the epoch), fresh until (15), images (8), rows asked for (8), fence (16), a checksum of the generation (10), bytes
of the end marker (5, 99999 where the listing ends); the end marker; then, as the seal keeps them, bytes of the header
(8); the header (JSON); the images' own bytes. The tag is the seal's, over the key and all that follows it.

Single answers in the store of spans: each resource is a listing of its own, whose one span holds its answers.

So all that holds for spans holds for them as it is: tiers, fetch locks, generations, expiry, the seal. A resource has
several answers where they vary with the request (RFC 9111 §4.1); they are kept together, so that one look will do.

Layout of the span's body: bytes of the head (8 decimal digits); the head, a JSON array with an object for each answer;
the answers' own bodies.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import Any, Final

import orjson

from proxy.core.cache_key import CacheKey
from proxy.core.messages import Fields
from proxy.core.span import LIST_START, Span
from proxy.core.values import immutable
from proxy.errors import StoreUnavailableError
from proxy.http.stored_response import StoredResponse
from proxy.storage.base import FetchLock, ListingState, SpanStore
from proxy.storage.sealing import TAG_BYTES, Checksum, Seal

_MAGIC: Final = b"IMS3"
_DIGITS: Final = b"%015d%015d%08d%08d%016d%010d%05d"
_DIGITS_BYTES: Final = 77
_ASKED: Final = slice(38, 46)
_NO_END: Final = 99999
CHECKSUM: Final = Checksum()


def encode(span: Span, *, key: bytes, fence: int = 0, seal: Seal = CHECKSUM) -> bytes:
    """Return *span* as the value to keep under *key*, sealed with *seal*."""
    end = b"" if span.next_marker is None else span.next_marker.encode()
    header = orjson.dumps(
        {
            "after": span.marker,
            "ids": span.ids,
            "starts": list(span.starts),
            "ends": list(span.ends),
            "fetched_at": span.fetched_at,
            "lifetime_s": span.lifetime_s,
            "generation": span.generation,
            "nulls": span.has_nulls,
            "unlinked": span.without_next,
        }
    )
    end_bytes = _NO_END if span.next_marker is None else len(end)
    times = span.fetched_at * 1000, (span.fetched_at + span.lifetime_s) * 1000
    digits = _DIGITS % (*times, len(span.ids), span.limit, fence, zlib.crc32(span.generation.encode()), end_bytes)
    bound = digits + end
    payload = bound + seal.seal(b"".join((b"%08d" % len(header), header, span.body)), name=key, bound=bound)
    return _MAGIC + seal.tag(key, payload) + payload


def decode(value: bytes, *, key: bytes, seal: Seal = CHECKSUM) -> Span | None:
    """Return the span in *value* as it was kept under *key*, or None where that is not what it is."""
    payload = _payload(value, key=key, seal=seal)
    if payload is None:
        return None
    try:
        return _parse_layout(payload, key=key, seal=seal, tag=value[4:20])
    except (ValueError, KeyError, TypeError, OverflowError):
        return None  # whole, but laid out by another release


def _payload(value: bytes, *, key: bytes, seal: Seal) -> bytes | None:
    """Return what stands behind the tag in *value*, None where it is not what was kept under *key*."""
    payload = value[len(_MAGIC) + TAG_BYTES :]
    return payload if value[: len(_MAGIC)] == _MAGIC and seal.is_genuine(value[4:20], key, payload) else None


def _unseal(payload: bytes, *, key: bytes, seal: Seal) -> tuple[str | None, bytes | None]:
    """Return the end marker, and what the seal may have hidden, None where that can't be opened."""
    end_bytes = int(payload[_DIGITS_BYTES - 5 : _DIGITS_BYTES])
    end, at = None, _DIGITS_BYTES
    if end_bytes != _NO_END:
        end = payload[at : at + end_bytes].decode()
        at += end_bytes
    return end, seal.unseal(payload[at:], name=key, bound=payload[:at])


def _parse_layout(payload: bytes, *, key: bytes, seal: Seal, tag: bytes) -> Span | None:
    end, plain = _unseal(payload, key=key, seal=seal)
    if plain is None:
        return None
    header_end = 8 + int(plain[:8])
    header = orjson.loads(plain[8:header_end])
    return Span(
        marker=header["after"],
        next_marker=end,
        ids=tuple(header["ids"]),
        body=plain[header_end:],
        starts=array("I", header["starts"]),
        ends=array("I", header["ends"]),
        limit=int(payload[_ASKED]),
        fetched_at=header["fetched_at"],
        lifetime_s=header["lifetime_s"],
        generation=header["generation"],
        has_nulls=header["nulls"],
        without_next=header["unlinked"],
        digest=tag,
    )


_MAX_RESPONSES: Final = 8  # answers of one resource; the latest are kept


@immutable
class FoundResponses:
    """The answers of a resource, the latest first, and the *state* of the resource.

    *is_current* says that nothing has invalidated them; *knowledge*, *join_after* and *unconfirmed* see
    `proxy.storage.base.FoundSpans`.
    """

    responses: tuple[StoredResponse, ...]
    state: ListingState
    is_current: bool
    knowledge: str = ""
    join_after: float = -inf
    unconfirmed: tuple[StoredResponse, ...] = ()

    @property
    def is_uncertain(self) -> bool:
        """Whether there are answers that can't be confirmed now."""
        return bool(self.unconfirmed)

    @property
    def as_last_resort(self) -> FoundResponses:
        """The same with the answers that can't be confirmed now, for a caller who otherwise gets nothing."""
        return replace(self, responses=self.unconfirmed, is_current=True) if self.unconfirmed else self


class ResponseStorage:
    """Keeps the answers of resources in *store*; while that is away it finds none and keeps none.

    A resource's answers are read and written as one, so only the latest are kept: *most_bytes* of them, one at least.
    """

    def __init__(self, store: SpanStore, *, most_bytes: int = 1 << 20) -> None:
        self._store = store
        self._most_bytes = most_bytes

    async def find(self, key: CacheKey, *, now: float) -> FoundResponses:
        """Return what is kept under *key*."""
        try:
            found = await self._store.lookup(key, LIST_START, 1, now=now)
        except StoreUnavailableError:
            return FoundResponses((), ListingState(""), is_current=False)
        span = found.slices[0].span if found.slices else None
        answers = _deserialize(span.body) if span is not None else ()
        current = span is not None and span.generation == found.state.generation
        doubted = found.unconfirmed[0].span if found.unconfirmed else None
        unconfirmed = _deserialize(doubted.body) if doubted and doubted.generation == found.state.generation else ()
        return FoundResponses(answers, found.state, current, found.knowledge, found.join_after, unconfirmed)

    async def put(
        self,
        key: CacheKey,
        answers: Sequence[StoredResponse],
        *,
        keep_s: float,
        now: float,
        lock: FetchLock,
    ) -> bool:
        """Keep *answers*, fetched under *lock*, in place of those under *key*; return whether that could be done."""
        latest = sorted(answers, key=lambda each: each.response_time, reverse=True)[:_MAX_RESPONSES]
        while len(latest) > 1 and sum(len(each.body) for each in latest) > self._most_bytes:
            latest.pop()
        fetched_at = latest[0].request_time if latest else now
        fresh_until = max((each.fresh_until for each in latest), default=now)
        span = Span(
            marker=LIST_START,
            next_marker=None,
            ids=(),
            body=_serialize(latest),
            starts=(),
            ends=(),
            limit=1,
            fetched_at=fetched_at,
            lifetime_s=max(0.0, fresh_until - fetched_at),
            generation=lock.state.generation,
        )
        try:
            await self._store.put(key, span, keep_s=keep_s, now=now, fence=lock.fence or 0)
        except StoreUnavailableError:
            return False
        return True


def _serialize(answers: Sequence[StoredResponse]) -> bytes:
    head = orjson.dumps(
        [
            {
                "status": each.status,
                "reason": None if each.reason is None else _to_json_text(each.reason),
                "fields": [(name, _to_json_text(value)) for name, value in each.fields],
                "bytes": len(each.body),
                "request_time": each.request_time,
                "response_time": each.response_time,
                "lifetime_s": each.lifetime_s,
                "nominated": [
                    (name, None if value is None else _to_json_text(value)) for name, value in each.nominated
                ],
            }
            for each in answers
        ]
    )
    return b"".join((b"%08d" % len(head), head, *(each.body for each in answers)))


def _deserialize(body: bytes) -> tuple[StoredResponse, ...]:
    """Return the answers in *body*, none where it is laid out by another release."""
    try:
        at = 8 + int(body[:8])
        answers = []
        for each in orjson.loads(body[8:at]):
            answers.append(_deserialize_one(each, body[at : at + each["bytes"]]))
            at += each["bytes"]
    except (ValueError, KeyError, TypeError):
        return ()
    return tuple(answers)


def _deserialize_one(each: dict[str, Any], body: bytes) -> StoredResponse:
    return StoredResponse(
        status=each["status"],
        reason=None if each["reason"] is None else _from_json_text(each["reason"]),
        fields=Fields((name, _from_json_text(value)) for name, value in each["fields"]),
        body=body,
        request_time=each["request_time"],
        response_time=each["response_time"],
        lifetime_s=each["lifetime_s"],
        nominated=tuple((name, None if value is None else _from_json_text(value)) for name, value in each["nominated"]),
    )


def _to_json_text(value: str) -> str:
    """Return *value* with each of its bytes as a character: a field may hold what is no UTF-8, and JSON may not."""
    return value.encode("utf-8", "surrogateescape").decode("latin-1")


def _from_json_text(value: str) -> str:
    return value.encode("latin-1").decode("utf-8", "surrogateescape")
