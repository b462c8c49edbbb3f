"""An upstream without a network: it has the listings that the log tells of, and answers the rest as the log says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import orjson

from proxy.core.base import Exchange
from proxy.core.list_api import EXTENSION_PATH, NATIVE_PATH
from proxy.core.list_query import ListQuery, parsed
from proxy.core.messages import Fields, Request, Response
from proxy.listing.request import PageSizes
from proxy.replay.entries import Entry
from proxy.replay.listings import Listings, Name

_LISTS: Final = (NATIVE_PATH, EXTENSION_PATH)
# What was refused for the request's own sake would be refused again; what failed or was throttled was for the moment's.
_REFUSED: Final = frozenset({400, 401, 403, 404})
# An image that is in no way special: it lacks no sort key, and is not about to change.
_IMAGE: Final = {
    "name": "",
    "status": "active",
    "visibility": "public",
    "size": 1,
    "container_format": "bare",
    "disk_format": "raw",
}
_JSON: Final = Fields([("Content-Type", "application/json")])


class RecordedUpstream:
    """An `Upstream`; *total* counts its calls. *entry* is the request under way, *name* the listing it asks for."""

    def __init__(self, listings: Listings, sizes: PageSizes) -> None:
        self._listings = listings
        self._sizes = sizes
        self.total = 0
        self.entry: Entry | None = None
        self.name: Name = ("", "", "")

    async def fetch(self, request: Request) -> Response:
        """See `Upstream.fetch`."""
        self.total += 1
        entry = self.entry
        assert entry is not None
        query = parsed(request.query) if request.method in ("GET", "HEAD") and request.path in _LISTS else None
        if entry.status in _REFUSED:
            return Response(entry.status, _JSON, b"{}")
        if not isinstance(query, ListQuery):
            done = entry.status if entry.status < 500 and entry.status != 429 else 200
            return Response(done, _JSON, b"{}")
        page = self._listings.page(
            (self.name[0], self.name[1], query.canonical),
            query.window.marker,
            self._sizes.rows(query.window, request.path),
        )
        if page is None:
            return Response(400, _JSON, b"{}")
        ids, goes_on = page
        told: dict[str, object] = {"images": [{"id": each, **_IMAGE} for each in ids]}
        if goes_on and request.path != EXTENSION_PATH:
            told["next"] = f"{request.path}?marker={ids[-1]}"
        return Response(200, _JSON, orjson.dumps(told))

    @asynccontextmanager
    async def exchange(self, request: Request) -> AsyncIterator[Exchange]:
        """See `Upstream.exchange`."""
        answer = await self.fetch(request)

        async def chunks() -> AsyncIterator[bytes]:
            yield answer.body

        yield Exchange(answer.status, answer.reason, answer.fields, chunks())
