"""The whole proxy on a free port, before the built-in look-alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import orjson
import pytest
from multidict import CIMultiDictProxy
from yarl import URL

from proxy.config.model import Settings
from proxy.demo.app import ImsLookalike
from proxy.demo.seed import TOKENS, make_demo_catalogue
from proxy.runtime.app import run_proxy
from tests.support.bounded import bounded
from tests.support.origin import Origin, an_origin
from tests.support.waiting import WITHIN_S

__all__ = ["bounded"]

ALPHA, BETA = "demo-token-alpha", "demo-token-beta"
IMAGES = 240

Lines = Iterable[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    reason: str | None
    fields: CIMultiDictProxy[str]
    body: bytes

    def json(self) -> Any:
        """Return the body, parsed."""
        return orjson.loads(self.body)

    @property
    def ids(self) -> list[str]:
        """The ids of the images that a list shows."""
        return [image["id"] for image in self.json()["images"]]

    @property
    def cache_status(self) -> str:
        """What the proxy says it did."""
        return self.fields["Cache-Status"]

    @property
    def hit(self) -> bool:
        """Whether the upstream was not asked."""
        return self.cache_status.startswith("ims-proxy; hit")


class Client:
    """Sends requests as they are written: no parameter re-encoded, nothing decompressed, every wait bounded."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._session = aiohttp.ClientSession(
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=WITHIN_S),
            skip_auto_headers=["Accept-Encoding", "Accept", "User-Agent", "Content-Type"],
            connector=aiohttp.TCPConnector(limit=0),
            max_line_size=256 * 1024,
            max_field_size=256 * 1024,
        )

    async def ask(
        self,
        target: str,
        *,
        method: str = "GET",
        token: str | None = ALPHA,
        fields: Lines = (),
        body: Any = None,
        **named: str,
    ) -> Answer:
        """Return the answer to one request; *named* are further fields, `_` for `-`."""
        lines = [*fields, *((name.replace("_", "-"), value) for name, value in named.items())]
        if token is not None:
            lines.append(("X-Auth-Token", token))
        url = URL(self.url + target, encoded=True)
        async with self._session.request(method, url, headers=lines, data=body, allow_redirects=False) as response:
            return Answer(response.status, response.reason, response.headers, await response.read())

    async def raw(self, request: bytes) -> bytes:
        """Send *request* as it is and return all that comes until the connection closes."""
        parts = urlsplit(self.url)
        async with asyncio.timeout(WITHIN_S):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            try:
                writer.write(request)
                await writer.drain()
                return await reader.read()
            finally:
                writer.close()

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running proxy: *client* speaks to its front, *admin* to its operators' port."""

    client: Client
    admin: Client

    async def purge(self, order: bytes, *, fields: Lines = ()) -> Answer:
        """Return what the admin port answers to *order*, sent as JSON."""
        lines = [*fields, ("Content-Type", "application/json")]
        return await self.admin.ask("/purge", method="POST", token=None, body=order, fields=lines)

    async def metric(self, name: str) -> float:
        """Return the sum of a metric's samples."""
        text = (await self.admin.ask("/metrics", token=None)).body.decode()
        samples = (line.rpartition(" ") for line in text.splitlines() if line.startswith(name))
        return sum(float(value) for _, _, value in samples)


def settings_for(upstream: str, /, **sections: dict[str, Any]) -> Settings:
    """Return settings for a proxy before *upstream* on free ports; *sections* override."""
    tree: dict[str, dict[str, Any]] = {
        "upstream": {"url": upstream},
        "server": {"listen": "127.0.0.1:0", "drain_s": 5},
        "admin": {"listen": "127.0.0.1:0"},
        "cache": {"transient_ttl_s": 60, "readahead": False},
    }
    for name, table in sections.items():
        tree[name] = tree.get(name, {}) | table
    return Settings.model_validate(tree)


@asynccontextmanager
async def a_proxy(upstream: str, /, **sections: dict[str, Any]) -> AsyncIterator[Proxy]:
    """Run a proxy before *upstream* for as long as the context lasts."""
    async with (
        run_proxy(settings_for(upstream, **sections)) as started,
        a_client(started.url) as client,
        a_client(started.admin_url) as admin,
    ):
        yield Proxy(client, admin)


MakeProxy = Callable[..., AbstractAsyncContextManager[Proxy]]


@pytest.fixture
async def upstream() -> AsyncIterator[ImsLookalike]:
    """The look-alike, with images for two projects."""
    async with ImsLookalike(make_demo_catalogue(IMAGES), TOKENS) as lookalike:
        yield lookalike


@pytest.fixture
async def proxy(upstream: ImsLookalike) -> AsyncIterator[Proxy]:
    """A proxy before the look-alike, without readahead."""
    async with a_proxy(upstream.base_url) as started:
        yield started


@pytest.fixture
def client(proxy: Proxy) -> Client:
    """A client of the proxy."""
    return proxy.client


@asynccontextmanager
async def a_client(url: str) -> AsyncIterator[Client]:
    """Give a client of *url* for as long as the context lasts."""
    client = Client(url)
    try:
        yield client
    finally:
        await client.close()


@pytest.fixture
async def direct(upstream: ImsLookalike) -> AsyncIterator[Client]:
    """A client that asks the look-alike itself."""
    async with a_client(upstream.base_url) as asking:
        yield asking


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    """An upstream that the test plays by hand."""
    async with an_origin() as listening:
        yield listening


@pytest.fixture
async def url(origin: Origin) -> AsyncIterator[str]:
    """Where callers come to a proxy before it."""
    async with a_proxy(origin.url) as proxy:
        yield proxy.client.url
