"""A store and upstreams that let a test decide when they go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol
from urllib.parse import parse_qs, urlsplit

import orjson

from proxy.core.cache_key import CacheKey
from proxy.core.messages import Fields, Request, Response, StreamedResponse
from proxy.core.signing import parse_signature
from proxy.storage.base import FetchLock
from proxy.storage.memory import MemoryStore


class HeldStore(MemoryStore):
    """Process memory whose claims are given while *gate* is open; *claiming* is set with each that is asked for."""

    def __init__(self) -> None:
        super().__init__(1 << 24)
        self.gate = asyncio.Event()
        self.gate.set()
        self.claiming = asyncio.Event()

    async def acquire_lock(self, key: CacheKey, marker: str, *, now: float) -> FetchLock:
        self.claiming.set()
        await self.gate.wait()
        return await super().acquire_lock(key, marker, now=now)


class Whole(Protocol):
    """An upstream that streams what it would give whole."""

    async def fetch(self, request: Request) -> Response: ...

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[StreamedResponse]:
        answer = await self.fetch(request)

        async def chunks() -> AsyncIterator[bytes]:
            yield answer.body

        yield StreamedResponse(answer.status, None, answer.fields, chunks())


class TellingWho(Whole):
    """Shows who asks what belongs to who asks: *calls* are the access keys that signed, in order, *signed* what by.

    While *gate* is shut answers wait; *asked* is set with each request. Keys that are *gone* are answered 401, with
    *failing* all are answered that.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.signed: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = asyncio.Event()
        self.gone: set[str] = set()
        self.failing: int | None = None

    async def fetch(self, request: Request) -> Response:
        given = parse_signature(request.fields)
        assert given is not None
        self.calls.append(given.access_key)
        self.signed.append(given.hex_digest)
        self.asked.set()
        await self.gate.wait()
        if given.access_key in self.gone:
            return Response(401, Fields(), b"{}")
        if self.failing is not None:
            return Response(self.failing, Fields([("X-Of", given.access_key)]), b"{}")
        if request.path != "/v2/images":
            return Response(200, Fields(), orjson.dumps(_image(given.access_key, 0)))
        return Response(200, Fields(), self._list(given.access_key, request.target))

    @staticmethod
    def _list(access: str, target: str) -> bytes:
        """Return the page of an endless list."""
        asked = parse_qs(urlsplit(target).query)
        begin, count = int(asked.get("marker", ["-1"])[0].rpartition("-")[2]) + 1, int(asked["limit"][0])
        images = [_image(access, number) for number in range(begin, begin + count)]
        following = f"/v2/images?limit={count}&marker={images[-1]['id']}"
        return orjson.dumps({"images": images, "next": following})


def _image(access: str, number: int) -> dict[str, str]:
    return {"id": f"{access}-{number}", "status": "active", "owner": access}
