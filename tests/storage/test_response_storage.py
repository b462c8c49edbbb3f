"""What every store does alike with the answers of resources."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.core.cache_key import ALL_TAG, CacheKey, listing_tag, partition_tag
from proxy.core.messages import Fields
from proxy.core.span import LIST_START
from proxy.errors import StoreUnavailableError
from proxy.http.stored_response import StoredResponse
from proxy.storage.base import FoundSpans, SpanStore
from proxy.storage.memory import MemoryStore
from proxy.storage.serialization import ResponseStorage
from tests.support.spans import ALPHA, BETA, NOW, a_span

KEY = CacheKey(ALPHA, "", "/v2/images/a", "")
ANSWER = StoredResponse(200, "OK", Fields([("A", "1"), ("a", "2")]), b"{}", NOW, NOW + 0.25, 60.0)


async def keep(
    store: SpanStore, *answers: StoredResponse, key: CacheKey = KEY, keep_s: float = 60.0, now: float = NOW
) -> bool:
    """Put *answers* into *store*, as fetched under a claim."""
    claim = await store.acquire_lock(key, LIST_START, now=now)
    kept = await ResponseStorage(store).put(key, answers, keep_s=keep_s, now=now, lock=claim)
    await store.release_lock(key, LIST_START, claim)
    return kept


async def test_an_empty_store_has_no_answer(store: SpanStore) -> None:
    """Nor is anything current."""
    found = await ResponseStorage(store).find(KEY, now=NOW)
    assert (found.responses, found.is_current) == ((), False)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(ANSWER, id="plain"),
        pytest.param(replace(ANSWER, body=b"", status=204, reason=None), id="no body, no reason"),
        pytest.param(replace(ANSWER, body=bytes(range(256)) * 100), id="any bytes"),
        pytest.param(replace(ANSWER, fields=Fields([("X", "é \udce9 \u20ac")])), id="fields beyond ASCII and UTF-8"),
        pytest.param(replace(ANSWER, reason="é \udce9 \u20ac"), id="a reason beyond ASCII and UTF-8"),
        pytest.param(replace(ANSWER, nominated=(("foo", "1"), ("bar", None), ("baz", ""))), id="what selected it"),
        pytest.param(replace(ANSWER, lifetime_s=0.0), id="stale at once"),
        pytest.param(replace(ANSWER, request_time=NOW - 1.5, fields=Fields([("Age", "30")])), id="old"),
    ],
)
async def test_an_answer_comes_back_as_it_was_put(store: SpanStore, answer: StoredResponse) -> None:
    """Every part of it survives."""
    assert await keep(store, answer)
    found = await ResponseStorage(store).find(KEY, now=NOW)
    assert (found.responses, found.is_current) == ((answer,), True)


async def test_the_answers_of_a_resource_are_kept_together_the_latest_first(store: SpanStore) -> None:
    """Eight of them; the oldest go."""
    answers = [replace(ANSWER, body=b"%d" % number, response_time=NOW + number) for number in range(10)]
    await keep(store, *answers)
    found = await ResponseStorage(store).find(KEY, now=NOW)
    assert [each.body for each in found.responses] == [b"%d" % number for number in range(9, 1, -1)]


async def test_only_so_many_bytes_are_kept_together(store: SpanStore) -> None:
    """The latest that fit; one alone is kept whatever its size, for that was looked at before."""
    answers = [replace(ANSWER, body=b"x" * 400, response_time=NOW + number) for number in range(4)]
    for most_bytes, count in ((1000, 2), (800, 2), (799, 1), (10, 1)):
        claim = await store.acquire_lock(KEY, LIST_START, now=NOW)
        await ResponseStorage(store, most_bytes=most_bytes).put(KEY, answers, keep_s=60.0, now=NOW, lock=claim)
        await store.release_lock(KEY, LIST_START, claim)
        found = await ResponseStorage(store).find(KEY, now=NOW)
        assert [each.response_time - NOW for each in found.responses] == [3.0, 2.0][:count]


async def test_later_answers_replace_those_that_are_there(store: SpanStore) -> None:
    """With none left, there is none."""
    await keep(store, ANSWER)
    await keep(store, replace(ANSWER, body=b"2", response_time=NOW + 1, request_time=NOW + 1), now=NOW + 1)
    assert [each.body for each in (await ResponseStorage(store).find(KEY, now=NOW + 1)).responses] == [b"2"]
    await keep(store, now=NOW + 2)
    assert (await ResponseStorage(store).find(KEY, now=NOW + 2)).responses == ()


@pytest.mark.parametrize(
    "other",
    [
        replace(KEY, partition=BETA),
        replace(KEY, variant="Q"),
        replace(KEY, path="/v2/images/b"),
        replace(KEY, query="a"),
    ],
    ids=["partition", "variant", "path", "query"],
)
async def test_resources_don_t_share_answers(store: SpanStore, other: CacheKey) -> None:
    """Whatever differs in the key, what was put under the one is not found under the other."""
    await keep(store, ANSWER)
    assert (await ResponseStorage(store).find(other, now=NOW)).responses == ()


@pytest.mark.parametrize(
    "scope",
    [ALL_TAG, partition_tag(ALPHA), listing_tag(KEY.path, KEY.query)],
    ids=["everything", "partition", "resource"],
)
async def test_an_invalidated_answer_is_not_current(store: SpanStore, scope: str) -> None:
    """It is still there to be asked about, and one fetched later is current again."""
    await keep(store, ANSWER)
    await store.invalidate([scope], now=NOW)
    found = await ResponseStorage(store).find(KEY, now=NOW)
    assert not found.is_current
    await keep(store, ANSWER)
    assert (await ResponseStorage(store).find(KEY, now=NOW)).is_current


async def test_a_fetch_that_began_before_a_write_brings_nothing_current(store: SpanStore) -> None:
    """Whenever it ends."""
    claim = await store.acquire_lock(KEY, LIST_START, now=NOW)
    await store.invalidate([listing_tag(KEY.path, KEY.query)], now=NOW)
    await ResponseStorage(store).put(KEY, [ANSWER], keep_s=60.0, now=NOW, lock=claim)
    assert not (await ResponseStorage(store).find(KEY, now=NOW)).is_current


async def test_a_span_of_images_holds_no_answers() -> None:
    """What is laid out otherwise is none."""
    store = MemoryStore(1 << 20)
    await store.put(KEY, a_span(), keep_s=60.0, now=NOW)
    assert (await ResponseStorage(store).find(KEY, now=NOW)).responses == ()


class Away(MemoryStore):
    """A store that can't be reached."""

    async def lookup(self, key: CacheKey, marker: str, count: int, *, can_join: bool = True, now: float) -> FoundSpans:
        raise StoreUnavailableError("away")

    async def put(self, *_: object, **__: object) -> None:
        raise StoreUnavailableError("away")


async def test_a_store_that_is_away_has_nothing_and_keeps_nothing() -> None:
    """And holds nobody up."""
    store = Away(1)
    assert (await ResponseStorage(store).find(KEY, now=NOW)).responses == ()
    assert not await keep(store, ANSWER)
