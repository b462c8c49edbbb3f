"""A look-alike that is running, and a way to ask it."""

from collections.abc import AsyncIterator

import aiohttp
import orjson
import pytest
from yarl import URL

from proxy.demo.app import ImsLookalike
from proxy.demo.seed import TOKENS, make_demo_catalogue
from tests.support.demo_images import Ask


@pytest.fixture
async def lookalike() -> AsyncIterator[ImsLookalike]:
    async with ImsLookalike(
        make_demo_catalogue(60), TOKENS, clock=lambda: 1_767_225_600.0, generate_id=lambda: "new-id"
    ) as started:
        yield started


@pytest.fixture
async def ask(lookalike: ImsLookalike) -> AsyncIterator[Ask]:
    """Send a request whose target goes out as it is written here."""
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(timeout=timeout, skip_auto_headers=["Content-Type"]) as client:

        async def asked(
            method: str, target: str, *, token: str | None = "demo-token-alpha", body: object = None, **headers: str
        ) -> tuple[aiohttp.ClientResponse, bytes]:
            fields = {name.replace("_", "-"): value for name, value in headers.items()}
            if token is not None:
                fields["X-Auth-Token"] = token
            url = URL(lookalike.base_url + target, encoded=True)
            payload = body if body is None or isinstance(body, bytes) else orjson.dumps(body)
            async with client.request(method, url, headers=fields, data=payload) as response:
                return response, await response.read()

        yield asked
