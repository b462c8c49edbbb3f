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

from proxy.auth.token_acceptance import TokenAcceptance
from proxy.caching.background import BackgroundTasks, BudgetSaver
from proxy.caching.bounded import EncodedBodies, NegativeCache, TTLMap
from proxy.core.cache_status import CacheStatus, FwdReason
from proxy.core.freshness import ERROR_STATUSES, Freshness, span_freshness
from proxy.core.list_api import IMAGES, is_transient_image
from proxy.core.messages import Fields, Response
from proxy.core.partition import Partition
from proxy.core.replay import ReplayTerms
from proxy.core.routes import Forward
from proxy.core.span import SpanSlice
from proxy.core.values import immutable
from proxy.errors import NotCachedError, ProxyError, RateLimitedError, StoreUnavailableError
from proxy.http.cache_control import NO_DIRECTIVES
from proxy.http.stored_response import FreshnessPolicy, StoredResponse
from proxy.listing.request import ListRequest
from proxy.resources.fetcher import ResourceFetcher, ResourceOutcome, is_personal, select_response
from proxy.resources.request import ResourceRequest
from proxy.resources.serving import choose_coding_for, present
from proxy.storage.base import SpanStorage
from proxy.storage.serialization import FoundResponses

_MAX_PARTITIONS: Final = 2_000
_MAX_LISTS: Final = 4
_FIELDS: Final = Fields([("Content-Type", "application/json; charset=UTF-8")])


class ListedImages:
    """Finds images in the spans of *store*. *clock* gives epoch seconds."""

    def __init__(self, store: SpanStorage, *, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._lists: TTLMap[tuple[ListRequest, ...]] = TTLMap(_MAX_PARTITIONS)

    def note_list(self, request: ListRequest) -> None:
        """A page of the list *request* was given: its items may be asked for next. Only a native list has whole
        images.
        """
        if request.upstream_api is not IMAGES:
            return
        at = (request.key.partition, request.key.variant)
        others = (each for each in self._lists.get(at, now=self._clock()) or () if each.key != request.key)
        until = self._clock() + request.lifetimes.ttl_s
        self._lists.put(at, (request, *others)[:_MAX_LISTS], until=until)

    async def find(self, partition: Partition, form: str, image_id: str) -> StoredResponse | None:
        """Return the image as a fresh list of *partition* in the *form* of the API has it.

        One that is about to change is not held, here as elsewhere.
        """
        for request in self._lists.get((partition, form), now=self._clock()) or ():
            span_slice = await self._find_fresh(request, image_id)
            if span_slice is None:
                continue
            span, at = span_slice.span, span_slice.start - 1
            body = span.body[span.starts[at] : span.ends[at]]
            if not is_transient_image(body):
                return StoredResponse(200, None, _FIELDS, body, span.fetched_at, span.fetched_at, span.lifetime_s)
        return None

    async def _find_fresh(self, request: ListRequest, image_id: str) -> SpanSlice | None:
        """Return the piece behind the image, if its span is fresh and nothing has invalidated it since.

        The span must also be in the chain that the store gives now: while other replicas' writes can't be heard of, it
        is left out there because it is not to be believed.
        """
        now = self._clock()
        try:
            span_slice = await self._store.find_image(request.key, image_id, now=now)
            found = await self._store.lookup(request.key, span_slice.span.marker, 1, now=now) if span_slice else None
        except StoreUnavailableError:
            return None
        if span_slice is None or found is None or all(each.span != span_slice.span for each in found.slices):
            return None
        stands = span_freshness(span_slice.span, request.lifetimes, generation=found.state.generation, now=now)
        return span_slice if stands is Freshness.FRESH else None


_MAX_BACKGROUND: Final = 64
_MAX_LARGE: Final = 2_000
_LARGE_S: Final = 300.0  # how long it is remembered that a resource is too large to be kept


@immutable
class ResourceResult:
    """An answer to a request for a resource, and how it came about."""

    response: Response
    cache_status: CacheStatus
    replay_terms: ReplayTerms | None = None


class ResourceService:
    """Answers requests for resources. *clock* gives epoch seconds; *negative_s* is how long a 400 or 404 is kept,
    *coded_bytes* how much is remembered of bodies in content codings.

    While a budget runs low, by *budget_saver*, a caller who could be given a stale answer does not wait for a call.
    Where there are *items*, an image that stands in a fresh list is answered from there.
    """

    def __init__(
        self,
        fetcher: ResourceFetcher,
        acceptance: TokenAcceptance,
        *,
        negative_s: float,
        coded_bytes: int,
        clock: Callable[[], float],
        budget_saver: BudgetSaver | None = None,
        items: ListedImages | None = None,
    ) -> None:
        self._fetcher = fetcher
        self._budget_saver = budget_saver or BudgetSaver()
        self._listed_images = items
        self._acceptance = acceptance
        self._clock = clock
        self._negative = NegativeCache(ttl_s=negative_s, clock=clock)
        self._large: TTLMap[bool] = TTLMap(_MAX_LARGE)
        self._encoded = EncodedBodies(coded_bytes)
        self.background = BackgroundTasks(_MAX_BACKGROUND)

    async def close(self) -> None:
        """End what is under way."""
        await self.background.close()
        await self._fetcher.close()
        await self._encoded.close()

    def note_list(self, request: ListRequest) -> None:
        """A page of the list *request* was given."""
        if self._listed_images is not None:
            self._listed_images.note_list(request)

    async def answer(self, request: ResourceRequest) -> ResourceResult | Forward:
        """Return the answer to *request*, or why it is forwarded.

        Raises `ProxyError` where the upstream gave none and nothing stored may stand in for it.
        """
        if self._large.get(request.key.digest, now=self._clock()):
            return Forward("body-too-large")
        found = await self._fetcher.find(request)
        answer = select_response(request, found)
        stands = self._freshness(request, answer, current=found.is_current)
        if answer is not None and stands is Freshness.FRESH:
            return await self._serve_hit(request, answer, CacheStatus(ttl_s=self._ttl_s(answer)))
        if item := await self._answer_from_list(request):
            return item
        if answer is not None and stands is Freshness.STALE_WHILE_REVALIDATE:
            detail = self._start_revalidation(request, found)
            return await self._serve_hit(request, answer, CacheStatus(ttl_s=self._ttl_s(answer), detail=detail))
        refused = self._negative.get(_negative_key(request, found))
        if refused is not None and request.directives.max_age_s is None:
            return ResourceResult(refused, CacheStatus(detail="negative"))
        if request.directives.only_if_cached:
            raise NotCachedError("resource: not in the store, and the caller sent only-if-cached")
        return await self._fetch_or_fall_back(request, answer, found)

    async def _answer_from_list(self, request: ResourceRequest) -> ResourceResult | None:
        if self._listed_images is None or not request.route.depends_on_images or request.key.query:
            return None
        image_id = request.key.path.rpartition("/")[2]
        item = await self._listed_images.find(request.key.partition, request.variant, image_id)
        if item is None or self._freshness(request, item, current=True) is not Freshness.FRESH:
            return None
        return await self._serve_hit(request, item, CacheStatus(ttl_s=self._ttl_s(item), detail="item-from-list"))

    def _freshness(self, request: ResourceRequest, stored: StoredResponse | None, *, current: bool) -> Freshness:
        """Return what *stored* may be used for, given its age, its caller's credentials and its caller's directives.

        An answer that is not *current* was invalidated, and may be used for nothing.
        """
        if stored is None or not current:
            return Freshness.EXPIRED
        now = self._clock()
        age_s = stored.current_age_s(now=now)
        if request.directives.excludes(age_s=age_s, left_s=stored.lifetime_s - age_s):
            return Freshness.EXPIRED
        stands = stored.freshness(request.route.policy, now=now)
        return self._acceptance.limit_freshness(stands, request.principal, fetched_at=stored.request_time)

    async def _fetch_or_fall_back(
        self, request: ResourceRequest, stored: StoredResponse | None, found: FoundResponses
    ) -> ResourceResult | Forward:
        """Return what a fetch brings, or *stored* in its place while the upstream fails."""
        why = _fwd_reason(stored, found, now=self._clock())
        last_resort = found.as_last_resort
        doubted = stored or select_response(request, last_resort)
        if self._usable_if_error(request, doubted, last_resort) and (
            found.is_uncertain or self._budget_saver.is_low(request.context.partition)
        ):
            request = replace(request, context=replace(request.context, may_wait=False))
        try:
            outcome, collapsed = await self._fetcher.fetch(request, found)
        except ProxyError as error:
            given = self._usable_if_error(request, stored, found)
            if given is None and isinstance(error, RateLimitedError):
                given = self._usable_if_error(request, doubted, last_resort)
            if given:
                return await self._serve_hit(request, given, CacheStatus(why, detail="stale-if-error"))
            raise
        if outcome.is_too_large:
            self._large.put(request.key.digest, True, until=self._clock() + _LARGE_S)
            return Forward("body-too-large")
        await self._record_acceptance(request, outcome)
        failed = outcome.stored_response is None and outcome.status in ERROR_STATUSES
        if failed and (given := self._usable_if_error(request, stored, found)):
            return await self._serve_hit(request, given, CacheStatus(why, outcome.status, detail="stale-if-error"))
        return await self._serve_fetched(request, outcome, found, why=why, collapsed=collapsed)

    def _usable_if_error(
        self, request: ResourceRequest, stored: StoredResponse | None, found: FoundResponses
    ) -> StoredResponse | None:
        """Return *stored* if it may be given in place of an error now, which may be long after it was looked up."""
        return (
            stored if self._freshness(request, stored, current=found.is_current) >= Freshness.STALE_IF_ERROR else None
        )

    async def _serve_fetched(
        self,
        request: ResourceRequest,
        outcome: ResourceOutcome,
        found: FoundResponses,
        *,
        why: FwdReason,
        collapsed: bool,
    ) -> ResourceResult:
        status = CacheStatus(
            why, outcome.status, stored=outcome.stored and not collapsed, collapsed=collapsed, detail=outcome.detail
        )
        if outcome.stored_response is None:
            assert outcome.response is not None
            if not (request.route.is_public or is_personal(outcome.response)):  # for who asks the same in its partition
                self._negative.put(_negative_key(request, found), outcome.response)
            return ResourceResult(outcome.response, status)
        answer = outcome.stored_response
        if not collapsed:
            answer = replace(answer, fields=answer.fields.plus(*outcome.restricted_lines))
        status = replace(status, ttl_s=self._ttl_s(answer))
        return ResourceResult(await self._present(request, answer, hit=False, now=self._clock()), status)

    async def _present(self, request: ResourceRequest, stored: StoredResponse, *, hit: bool, now: float) -> Response:
        coding = choose_coding_for(stored, request.client_request, request.route)
        response = present(stored, request.client_request, request.route, hit=hit, now=now, coding=coding)
        if coding is None or response.status != 200:
            return response
        return replace(response, body=await self._encoded.get_or_encode(request.key.digest, stored.body, coding))

    async def _serve_hit(self, request: ResourceRequest, stored: StoredResponse, status: CacheStatus) -> ResourceResult:
        now = self._clock()
        response = await self._present(request, stored, hit=True, now=now)
        fresh = status.fwd is None and status.detail is None
        return ResourceResult(response, status, self._replay_terms(request, stored, response, now) if fresh else None)

    def _replay_terms(
        self, request: ResourceRequest, stored: StoredResponse, response: Response, now: float
    ) -> ReplayTerms | None:
        """Return leave to repeat *response*, None if its `Cache-Control` does not simply count down a lifetime."""
        told = [f"private, max-age={max(0, floor(stored.fresh_until - now))}"]
        if (
            request.directives != NO_DIRECTIVES
            or request.route.by_vary
            or response.fields.get_all("cache-control") != told
        ):
            return None  # what the caller demands of age and lifetime is looked at each time, and what `Vary` may name
        fetched_at, fresh_until = now - stored.current_age_s(now=now), stored.fresh_until
        self._acceptance.mark_served(request.principal)
        believed_until = self._acceptance.trusted_until(request.principal, fetched_at=stored.request_time)
        return ReplayTerms(fetched_at, fresh_until, min(fresh_until, believed_until, request.principal.expires_at))

    def _ttl_s(self, stored: StoredResponse) -> float:
        return stored.fresh_until - self._clock()

    def _start_revalidation(self, request: ResourceRequest, found: FoundResponses) -> str:
        """Fetch *request* in the background unless the budget runs low, and return the `Cache-Status` detail for
        either.
        """
        if self._budget_saver.skips("revalidate", request.context.partition):
            return "budget-low"
        self.background.start(self._revalidate(request, found))
        return "stale-while-revalidate"

    async def _revalidate(self, request: ResourceRequest, found: FoundResponses) -> None:
        outcome, _ = await self._fetcher.fetch(request, found, purpose="revalidate")
        await self._record_acceptance(request, outcome)

    async def _record_acceptance(self, request: ResourceRequest, outcome: ResourceOutcome) -> None:
        """Note whether the upstream accepted the caller's credential."""
        if request.route.is_public:
            return
        if outcome.stored_response is not None:
            self._acceptance.record_acceptance(request.principal, sent_at=outcome.stored_response.request_time)
        elif outcome.status == 401:
            await self._acceptance.record_rejection(request.principal)


def _fwd_reason(stored: StoredResponse | None, found: FoundResponses, *, now: float) -> FwdReason:
    if stored is not None:
        fresh = found.is_current and stored.freshness(FreshnessPolicy(), now=now) is Freshness.FRESH
        return FwdReason.REQUEST if fresh else FwdReason.STALE
    return (
        FwdReason.MISS if found.responses else FwdReason.URI_MISS
    )  # RFC 9211 §2.2: other answers are there, none for this request


def _negative_key(request: ResourceRequest, found: FoundResponses) -> tuple[str, str, str]:
    return (request.key.digest, found.knowledge, request.collapse_key)
