"""Images out of lists: `GET /v2/images/{id}` equals the list's item, so a fresh list answers it too.

Nothing records which lists hold an image, so the lists that a partition was given last are searched. An image found in
one has that list's age and lifetime, and is shared by the same partition.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from proxy.caching.bounded import Memo
from proxy.core.freshness import Standing, standing
from proxy.core.image import about_to_change
from proxy.core.list_api import NATIVE_PATH
from proxy.core.messages import Fields
from proxy.core.partition import Partition
from proxy.core.span import Piece
from proxy.errors import StoreUnavailableError
from proxy.http.stored_response import StoredAnswer
from proxy.listing.request import ListAsk
from proxy.storage.base import SpanStore

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
