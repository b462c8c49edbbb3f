"""One fetch for all who want the same: in this process at most one is in flight, and among replicas too.

How a fetch can end, and what those who wait for it do:

- done: they take what it brought.
- the upstream answered, but not what may be shared: who led gets that answer; who followed asks once more. What those
  who follow again get, they share, for else a crowd would fall on an upstream that fails; but never a 401 or 403, which
  is about who asks: then each asks alone.
- the upstream could not be reached: likewise.
- the replica that led died, stands still, or lost its claim: it is silent, and the first who asks again takes it over.
- they waited too long: they fetch without a claim.
- the store is lost: every replica fetches for itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Hashable
from dataclasses import replace
from math import inf
from typing import Final, Generic, TypeVar

from proxy.caching.collapsing import Coalescer
from proxy.core.cache_key import ListingKey
from proxy.core.messages import Response
from proxy.errors import ProxyError, StoreUnavailableError, TooManyCallsError
from proxy.observability.logging import Telemetry
from proxy.storage.base import Claim, SpanStore, State
from proxy.storage.circuit_breaker import begin_request

PERSONAL: Final = frozenset({401, 403})  # answers that are about who asks
# What tells of one call: the budget that it left, the name that it went by.
OF_THE_CALL: Final = frozenset(
    {
        "x-request-id",
        "x-openstack-request-id",
        *(f"x-apig-ratelimit-{policy}" for policy in ("user", "api", "app", "ip")),
    }
)
_CLAIM_POLLS: Final = 900
_JOINS: Final = 8
_CLAIM_POLL_S: Final = 0.1

Result = TypeVar("Result")


def without_its_call(response: Response) -> Response:
    """Return *response* as it is told to those who did not make the call that it answers."""
    return replace(response, fields=response.fields.without(OF_THE_CALL))


class Sharing(Generic[Result]):
    """Lets fetches that end in a `Result` be shared. *clock* gives epoch seconds."""

    def __init__(self, store: SpanStore, *, telemetry: Telemetry, clock: Callable[[], float]) -> None:
        self._store = store
        self._telemetry = telemetry
        self._clock = clock
        self._flights: Coalescer[Result] = Coalescer()

    async def close(self) -> None:
        """End the fetches that are under way."""
        await self._flights.close()

    async def shared(
        self,
        at: Hashable,
        fetch: Callable[[], Coroutine[None, None, Result]],
        *,
        serves: Callable[[Result, bool], bool],
        join_after: float = -inf,
    ) -> tuple[Result, bool] | None:
        """Return how the flight for *at* ended, and whether another caller began it; without one, *fetch* begins it.

        *serves* says whether a caller who followed may take a result. Its second argument is whether an earlier flight
        has already been of no use to this caller. A flight that began before *join_after* is not joined. None where no
        flight was of use: then the caller has to ask alone. Raises `ProxyError` where the upstream gave no answer.
        """
        failed = False
        for _ in range(_JOINS):
            follows = self._flights.flying(at, not_before=join_after)
            if follows:
                self._telemetry.collapsed()
            try:
                result = await self._flights.join(at, fetch, not_before=join_after)
            except TooManyCallsError:
                if not follows:
                    raise
                continue  # who led may have had less patience or a lower rank than this caller
            except ProxyError:
                if not follows or failed:
                    raise
                failed = True
                continue
            if not follows or serves(result, failed):
                return result, follows
            if failed:
                break
            failed = True
        return None

    async def claimed(
        self,
        key: ListingKey,
        after: str,
        fetch: Callable[[Claim], Awaitable[Result]],
        *,
        elsewhere: Callable[[], Awaitable[Result | None]],
        generation: str,
    ) -> Result:
        """Return the result of *fetch* under a claim, or, while another replica holds the claim, that of *elsewhere*.

        *elsewhere* looks for what that replica has fetched. Without the store, the claim carries *generation*.
        """
        claim, waited = await self._claim(key, after, generation), False
        for _ in range(_CLAIM_POLLS):
            if claim.fence is not None:
                break
            waited = True
            begin_request()  # the store has just answered, so what was waited for it until now counts no more
            if await self._settled(key, after) and (result := await elsewhere()):
                return result
            claim = await self._claim(key, after, generation)
        try:
            if waited and claim.fence and (result := await elsewhere()):
                return result
            return await fetch(claim)
        finally:
            await self._settle(key, after, claim)

    async def _claim(self, key: ListingKey, after: str, generation: str) -> Claim:
        try:
            return await self._store.claim(key, after, now=self._clock())
        except StoreUnavailableError:
            return Claim(State(generation), 0)

    async def _settle(self, key: ListingKey, after: str, claim: Claim) -> None:
        try:
            await self._store.settle(key, after, claim)
        except StoreUnavailableError:
            return  # the claim lapses by itself

    async def _settled(self, key: ListingKey, after: str) -> bool:
        try:
            return await self._store.settled(key, after, timeout_s=_CLAIM_POLL_S)
        except StoreUnavailableError:
            return False  # the next claim says how it stands
