"""Single resources: an image, a schema, a quota, and whatever a route in the configuration names (RFC 9111).

Images out of lists: `GET /v2/images/{id}` equals the list's item, so a fresh list answers it too.

Nothing records which lists hold an image, so the lists that a partition was given last are searched. An image found in
one has that list's age and lifetime, and is shared by the same partition.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import floor
from typing import Final

from proxy.auth.token_acceptance import Credentials
from proxy.caching.background import Background
from proxy.caching.bounded import CodedBodies, Memo, Negatives
from proxy.core.cache_status import CacheStatus, Fwd
from proxy.core.freshness import ERRORS, Standing, standing
from proxy.core.list_api import NATIVE_PATH, about_to_change
from proxy.core.messages import Fields, Response
from proxy.core.partition import Partition
from proxy.core.span import Piece
from proxy.core.values import immutable
from proxy.errors import NotInStoreError, ProxyError, StoreUnavailableError, TooManyCallsError
from proxy.http.cache_control import NONE
from proxy.http.stored_response import Policy, StoredAnswer
from proxy.listing.lookup import Repeatable
from proxy.listing.prefetch import Thrift
from proxy.listing.request import ListAsk
from proxy.resources.fetcher import FetchedAnswer, ResourceFetcher, about_who_asked, chosen
from proxy.resources.request import ResourceAsk
from proxy.resources.serving import coding_for, presented
from proxy.storage.base import SpanStore
from proxy.storage.serialization import FoundAnswers

_MOST_PARTITIONS: Final = 2_000
_MOST_LISTS: Final = 4
_FIELDS: Final = Fields([("Content-Type", "application/json; charset=UTF-8")])


class ListItems:
    """Finds images in the spans of *store*. *clock* gives epoch seconds."""

    def __init__(self, store: SpanStore, *, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._given: Memo[tuple[ListAsk, ...]] = Memo(_MOST_PARTITIONS)

    def given(self, ask: ListAsk) -> None:
        """A page of the list *ask* was given: its items may be asked for next. Only a native list has whole images."""
        if ask.source != NATIVE_PATH:
            return
        at = (ask.key.partition, ask.key.variant)
        others = (each for each in self._given.get(at, now=self._clock()) or () if each.key != ask.key)
        until = self._clock() + ask.lifetimes.ttl_s
        self._given.put(at, (ask, *others)[:_MOST_LISTS], until=until)

    async def item(self, partition: Partition, form: str, image_id: str) -> StoredAnswer | None:
        """Return the image as a fresh list of *partition* in the *form* of the API has it.

        One that is about to change is not held, here as elsewhere.
        """
        for ask in self._given.get((partition, form), now=self._clock()) or ():
            piece = await self._fresh(ask, image_id)
            if piece is None:
                continue
            span, at = piece.span, piece.start - 1
            body = span.body[span.starts[at] : span.ends[at]]
            if not about_to_change(body):
                return StoredAnswer(200, None, _FIELDS, body, span.fetched_at, span.fetched_at, span.lifetime_s)
        return None

    async def _fresh(self, ask: ListAsk, image_id: str) -> Piece | None:
        """Return the piece behind the image, if its span is fresh and nothing has invalidated it since.

        The span must also be in the chain that the store gives now: while other replicas' writes can't be heard of, it
        is left out there because it is not to be believed.
        """
        now = self._clock()
        try:
            piece = await self._store.holding(ask.key, image_id, now=now)
            found = await self._store.chain(ask.key, piece.span.after, 1, now=now) if piece else None
        except StoreUnavailableError:
            return None
        if piece is None or found is None or all(each.span != piece.span for each in found.pieces):
            return None
        stands = standing(piece.span, ask.lifetimes, generation=found.state.generation, now=now)
        return piece if stands is Standing.FRESH else None


_MAX_BACKGROUND: Final = 64
_REMEMBERED: Final = 2_000
_LARGE_S: Final = 300.0  # how long it is remembered that a resource is too large to be kept


@immutable
class Resourced:
    """An answer to a request for a resource, and how it came about."""

    response: Response
    cache_status: CacheStatus
    repeatable: Repeatable | None = None


class ResourceGateway:
    """Answers requests for resources. *clock* gives epoch seconds; *negative_s* is how long a 400 or 404 is kept,
    *coded_bytes* how much is remembered of bodies in content codings.

    While a budget runs low, by *thrift*, a caller who could be given a stale answer does not wait for a call. Where
    there are *items*, an image that stands in a fresh list is answered from there.
    """

    def __init__(
        self,
        fetcher: ResourceFetcher,
        credentials: Credentials,
        *,
        negative_s: float,
        coded_bytes: int,
        clock: Callable[[], float],
        thrift: Thrift | None = None,
        items: ListItems | None = None,
    ) -> None:
        self._fetcher = fetcher
        self._thrift = thrift or Thrift()
        self._items = items
        self._credentials = credentials
        self._clock = clock
        self._refused = Negatives(for_s=negative_s, clock=clock)
        self._large: Memo[bool] = Memo(_REMEMBERED)
        self._coded = CodedBodies(coded_bytes)
        self.background = Background(_MAX_BACKGROUND)

    async def close(self) -> None:
        """End what is under way."""
        await self.background.close()
        await self._fetcher.close()
        await self._coded.close()

    def listed(self, ask: ListAsk) -> None:
        """A page of the list *ask* was given."""
        if self._items is not None:
            self._items.given(ask)

    async def answer(self, ask: ResourceAsk) -> Resourced | str:
        """Return the answer to *ask*, or why its request has to go through on its own.

        Raises `ProxyError` where the upstream gave none and nothing stored may stand in for it.
        """
        if self._large.get(ask.key.digest, now=self._clock()):
            return "large"
        found = await self._fetcher.found(ask)
        answer = chosen(ask, found)
        stands = self._standing(ask, answer, current=found.current)
        if answer is not None and stands is Standing.FRESH:
            return await self._hit(ask, answer, CacheStatus(ttl_s=self._ttl_s(answer)))
        if item := await self._item(ask):
            return item
        if answer is not None and stands is Standing.REVALIDATE:
            detail = self._revalidate(ask, found)
            return await self._hit(ask, answer, CacheStatus(ttl_s=self._ttl_s(answer), detail=detail))
        refused = self._refused.given(_refusal(ask, found))
        if refused is not None and ask.directives.max_age_s is None:
            return Resourced(refused, CacheStatus(detail="negative"))
        if ask.directives.only_if_cached:
            raise NotInStoreError("resource: not in the store, and the caller sent only-if-cached")
        return await self._got(ask, answer, found)

    async def _item(self, ask: ResourceAsk) -> Resourced | None:
        if self._items is None or not ask.route.images or ask.key.query:
            return None
        image_id = ask.key.path.rpartition("/")[2]
        item = await self._items.item(ask.key.partition, ask.form, image_id)
        if item is None or self._standing(ask, item, current=True) is not Standing.FRESH:
            return None
        return await self._hit(ask, item, CacheStatus(ttl_s=self._ttl_s(item), detail="item-from-list"))

    def _standing(self, ask: ResourceAsk, answer: StoredAnswer | None, *, current: bool) -> Standing:
        """Return what *answer* may be used for, given its age, its caller's credentials and its caller's directives.

        An answer that is not *current* was invalidated, and may be used for nothing.
        """
        if answer is None or not current:
            return Standing.GONE
        now = self._clock()
        age_s = answer.current_age_s(now=now)
        if ask.directives.exclude(age_s=age_s, left_s=answer.lifetime_s - age_s):
            return Standing.GONE
        stands = answer.standing(ask.route.policy, now=now)
        return self._credentials.bound(stands, ask.who, fetched_at=answer.request_time)

    async def _got(self, ask: ResourceAsk, answer: StoredAnswer | None, found: FoundAnswers) -> Resourced | str:
        """Return what a fetch brings, or *answer* in its place while the upstream fails."""
        why = _why(answer, found, now=self._clock())
        last_resort = found.as_last_resort
        doubted = answer or chosen(ask, last_resort)
        if self._stands_in(ask, doubted, last_resort) and (found.doubtful or self._thrift.low(ask.claimant.partition)):
            ask = replace(ask, claimant=replace(ask.claimant, patient=False))
        try:
            fetched, follows = await self._fetcher.fetched(ask, found)
        except ProxyError as error:
            given = self._stands_in(ask, answer, found)
            if given is None and isinstance(error, TooManyCallsError):
                given = self._stands_in(ask, doubted, last_resort)
            if given:
                return await self._hit(ask, given, CacheStatus(why, detail="stale-if-error"))
            raise
        if fetched.large:
            self._large.put(ask.key.digest, True, until=self._clock() + _LARGE_S)
            return "large"
        await self._learn(ask, fetched)
        failed = fetched.answer is None and fetched.status in ERRORS
        if failed and (given := self._stands_in(ask, answer, found)):
            return await self._hit(ask, given, CacheStatus(why, fetched.status, detail="stale-if-error"))
        return await self._given(ask, fetched, found, why=why, follows=follows)

    def _stands_in(self, ask: ResourceAsk, answer: StoredAnswer | None, found: FoundAnswers) -> StoredAnswer | None:
        """Return *answer* if it may be given in place of an error now, which may be long after it was looked up."""
        return answer if self._standing(ask, answer, current=found.current) >= Standing.IF_ERROR else None

    async def _given(
        self, ask: ResourceAsk, fetched: FetchedAnswer, found: FoundAnswers, *, why: Fwd, follows: bool
    ) -> Resourced:
        status = CacheStatus(
            why, fetched.status, stored=fetched.stored and not follows, collapsed=follows, detail=fetched.detail
        )
        if fetched.answer is None:
            assert fetched.response is not None
            if not (ask.route.public or about_who_asked(fetched.response)):  # for who asks the same in its partition
                self._refused.keep(_refusal(ask, found), fetched.response)
            return Resourced(fetched.response, status)
        answer = fetched.answer
        if not follows:
            answer = replace(answer, fields=answer.fields.plus(*fetched.withheld))
        status = replace(status, ttl_s=self._ttl_s(answer))
        return Resourced(await self._presented(ask, answer, hit=False, now=self._clock()), status)

    async def _presented(self, ask: ResourceAsk, answer: StoredAnswer, *, hit: bool, now: float) -> Response:
        coding = coding_for(answer, ask.asked, ask.route)
        response = presented(answer, ask.asked, ask.route, hit=hit, now=now, coding=coding)
        if coding is None or response.status != 200:
            return response
        return replace(response, body=await self._coded.body(ask.key.digest, answer.body, coding))

    async def _hit(self, ask: ResourceAsk, answer: StoredAnswer, status: CacheStatus) -> Resourced:
        now = self._clock()
        response = await self._presented(ask, answer, hit=True, now=now)
        fresh = status.fwd is None and status.detail is None
        return Resourced(response, status, self._repeatable(ask, answer, response, now) if fresh else None)

    def _repeatable(self, ask: ResourceAsk, answer: StoredAnswer, response: Response, now: float) -> Repeatable | None:
        """Return leave to repeat *response*, None if its `Cache-Control` does not simply count down a lifetime."""
        told = [f"private, max-age={max(0, floor(answer.fresh_until - now))}"]
        if ask.directives != NONE or ask.route.vary or response.fields.all("cache-control") != told:
            return None  # what the caller demands of age and lifetime is looked at each time, and what `Vary` may name
        fetched_at, fresh_until = now - answer.current_age_s(now=now), answer.fresh_until
        self._credentials.shown(ask.who)
        believed_until = self._credentials.believed_until(ask.who, fetched_at=answer.request_time)
        return Repeatable(fetched_at, fresh_until, min(fresh_until, believed_until, ask.who.expires_at))

    def _ttl_s(self, answer: StoredAnswer) -> float:
        return answer.fresh_until - self._clock()

    def _revalidate(self, ask: ResourceAsk, found: FoundAnswers) -> str:
        """Fetch *ask* in the background unless the budget runs low, and return the `Cache-Status` detail for either."""
        if self._thrift.forbids("revalidate", ask.claimant.partition):
            return "thrift"
        self.background.do(self._revalidated(ask, found))
        return "stale-while-revalidate"

    async def _revalidated(self, ask: ResourceAsk, found: FoundAnswers) -> None:
        fetched, _ = await self._fetcher.fetched(ask, found, purpose="revalidate")
        await self._learn(ask, fetched)

    async def _learn(self, ask: ResourceAsk, fetched: FetchedAnswer) -> None:
        """Note whether the upstream accepted the caller's credential."""
        if ask.route.public:
            return
        if fetched.answer is not None:
            self._credentials.accepted(ask.who, sent_at=fetched.answer.request_time)
        elif fetched.status == 401:
            await self._credentials.rejected(ask.who)


def _why(answer: StoredAnswer | None, found: FoundAnswers, *, now: float) -> Fwd:
    if answer is not None:
        fresh = found.current and answer.standing(Policy(), now=now) is Standing.FRESH
        return Fwd.REQUEST if fresh else Fwd.STALE
    return Fwd.MISS if found.answers else Fwd.URI_MISS  # RFC 9211 §2.2: other answers are there, none for this request


def _refusal(ask: ResourceAsk, found: FoundAnswers) -> tuple[str, str, str]:
    return (ask.key.digest, found.moment, ask.flight)
