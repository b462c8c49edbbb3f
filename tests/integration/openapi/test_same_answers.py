"""Whatever the description allows: through the proxy the answers are those of the image API itself.

Two look-alikes begin alike and are told the same, one directly, one through the proxy, which keeps and joins what it
may. After each request both have to have said the same.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.demo.app import ROUTES, ImsLookalike
from proxy.demo.seed import ALPHA_PROJECT, BETA_PROJECT, EMPTY_PROJECT, TOKENS, make_demo_catalogue
from tests.integration.openapi.requests import Asked, Description
from tests.support.running import Answer, Client, Proxy, a_client, a_proxy

IMAGES = 48
NOW = 1_750_000_000.0
_SEEN = [image.id for image in make_demo_catalogue(IMAGES)]
DESCRIPTION = Description(
    Path(__file__).with_name("images.yaml"),
    {
        "image-id": [*_SEEN[::4], "created-1", "created-2", "00000000-0000-4000-8000-000000000000", "no id"],
        "project-id": [ALPHA_PROJECT, BETA_PROJECT, EMPTY_PROJECT, "nobody"],
    },
)

Step = tuple[str | None, Asked]
tokens = st.one_of(st.just("demo-token-alpha"), st.sampled_from([*TOKENS, "unknown", None]))
# Every second request is for a list, or few would be asked for before and after a write.
requests = st.one_of(DESCRIPTION.requests(), DESCRIPTION.requests_to("/v2/images", "GET"))
steps: st.SearchStrategy[list[Step]] = st.lists(st.tuples(tokens, requests), min_size=1, max_size=15)


class Twins:
    """A look-alike that is asked directly, and one that is asked through a proxy; *hits* is how often it was not."""

    def __init__(self) -> None:
        self.hits = 0
        self._ids = [count(1), count(1)]
        self._both = [self._lookalike(0), self._lookalike(1)]
        self._stack = AsyncExitStack()
        self._direct: Client
        self._proxy: Proxy

    def _lookalike(self, number: int) -> ImsLookalike:
        return ImsLookalike(
            make_demo_catalogue(IMAGES),
            TOKENS,
            clock=lambda: NOW,
            generate_id=lambda: f"created-{next(self._ids[number])}",
        )

    async def open(self) -> None:
        for each in self._both:
            await self._stack.enter_async_context(each)
        self._direct = await self._stack.enter_async_context(a_client(self._both[0].base_url))
        cache = {"readahead": True}
        self._proxy = await self._stack.enter_async_context(a_proxy(self._both[1].base_url, cache=cache))

    async def close(self) -> None:
        await self._stack.aclose()

    async def begin(self) -> None:
        """Begin anew, the proxy with nothing stored."""
        for number, each in enumerate(self._both):
            each.catalogue = make_demo_catalogue(IMAGES)
            self._ids[number] = count(1)
        order = [("Content-Type", "application/json")]
        purged = await self._proxy.admin.ask("/purge", method="POST", token=None, fields=order, body=b'{"all":true}')
        assert purged.status == 200

    async def compare(self, steps: Iterable[Step]) -> None:
        """Ask both for each of *steps*, and after a write that was done again for all that was read before it."""
        await self.begin()
        read: list[Step] = []
        for token, asked in steps:
            done = await self._alike(token, asked)
            if asked.method == "GET":
                read.append((token, asked))
            elif done:
                for before in read:
                    await self._alike(*before)

    async def _alike(self, token: str | None, asked: Asked) -> bool:
        """Hold what both say against each other, the proxy twice where it may remember; return whether it was done."""
        expected = await _answer(self._direct, token, asked)
        for _ in range(2 if asked.method == "GET" else 1):
            got = await _answer(self._proxy.client, token, asked)
            self.hits += got.hit
            if "marker-recovered" in got.cache_status:
                assert (expected.status, got.status) == (400, 200)  # the one kindness: it goes on where it stood
            else:
                assert told(got, self._proxy.client.url) == told(expected, self._direct.url), asked
        return expected.status < 300


async def _answer(client: Client, token: str | None, asked: Asked) -> Answer:
    return await client.ask(asked.target, method=asked.method, token=token, fields=asked.fields, body=asked.body)


def told(answer: Answer, url: str) -> tuple[int, object, dict[str, str]]:
    """Return what *answer*, got at *url*, says, without what a proxy may say otherwise."""
    fields = {name: answer.fields.get(name, "") for name in ("Location", "Allow")}
    fields["type"] = answer.fields.get("Content-Type", "").partition(";")[0]
    body: Any = answer.body
    if fields["type"] == "application/json":
        body = orjson.loads(answer.body.replace(url.encode(), b"http://the.one.asked"))
        if isinstance(body, dict) and isinstance(body.get("images"), list):
            body |= {name: _link(body[name]) for name in ("first", "next") if name in body}
    return answer.status, body, fields


def _link(link: str) -> tuple[str, object]:
    """Return path, limit and marker of a *link*; that the upstream's own loses parameters is what the proxy mends."""
    parts = urlsplit(link)
    query = parse_qs(parts.query, keep_blank_values=True)
    return parts.path, {name: query.get(name) for name in ("limit", "marker")}


def test_the_description_is_complete() -> None:
    """What the look-alike answers is described, and nothing else is."""
    served = {(route.template, method) for route in ROUTES for method in route.methods}
    assert {(re.sub(r"\{\w+\}", "{}", path), method) for path, method in DESCRIPTION.operations} == served


def test_the_answers_are_the_same() -> None:
    """For any tokens and any requests in any order, writes among them."""
    with asyncio.Runner() as runner:
        twins = Twins()
        runner.run(twins.open())
        try:

            @settings(max_examples=60)
            @given(steps)
            def same(each: list[Step]) -> None:
                runner.run(twins.compare(each))

            same()
            assert twins.hits > 0
        finally:
            runner.run(twins.close())
