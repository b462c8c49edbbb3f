"""An upstream that lists images slowly and counts what it is asked: `python -m tests.load.upstream PORT`.

`GET /calls` returns the number of list calls, in all and by listing; `DELETE /calls` sets them to zero. A listing is
named by its filters and its order, in a canonical form without `limit` and `marker`.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from collections import Counter
from typing import Final, cast
from urllib.parse import parse_qsl, urlencode

import orjson
import uvloop

from tests.load.listings import DEFAULT_LIMIT, IMAGES, LISTINGS, Image, Pairs, make_listings, render_page
from tests.support.processes import LOOPBACK

_MAX_LIMIT: Final = 1000
_DEFAULT_ORDER: Final = {("sort_key", "created_at"), ("sort_dir", "desc")}


class Upstream:
    """Holds the listings and the counts; *delay_ms* is the least and the most that a list takes."""

    def __init__(self, listings: dict[str, list[Image]], *, delay_ms: tuple[float, float], seed: int) -> None:
        self._listings = listings
        self._every_image = [image for images in listings.values() for image in images]
        self._delay_ms = delay_ms
        self._rng = random.Random(seed)
        self.calls: Counter[str] = Counter()

    def draw_delay_s(self) -> float:
        """Return how long the next list takes."""
        return self._rng.uniform(*self._delay_ms) / 1000

    def count_call(self, pairs: Pairs) -> None:
        """Count a list call for the listing that *pairs* ask for."""
        self.calls[canonical_listing(pairs)] += 1

    def render(self, pairs: Pairs) -> tuple[int, bytes]:
        """Return status and body of a list."""
        query = dict(pairs)
        name = query.get("name")
        selected = self._every_image if name is None else self._listings.get(name, [])
        limit = min(int(query.get("limit", DEFAULT_LIMIT)), _MAX_LIMIT)
        try:
            return 200, render_page(selected, pairs, limit=limit)
        except KeyError:
            return 404, b'{"code": 404, "message": "marker not found"}'


def canonical_listing(pairs: Pairs) -> str:
    """Return the listing that *pairs* ask for: sorted filters and order, without window and defaults."""
    kept = (pair for pair in pairs if pair[0] not in ("limit", "marker") and pair not in _DEFAULT_ORDER)
    return urlencode(sorted(kept))


class Connection(asyncio.Protocol):
    """One keep-alive connection without pipelining: the next request comes after the answer."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports derive from none of asyncio's

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if end:
            self._received = rest
            method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
            self._handle(method, target)

    def _handle(self, method: str, target: str) -> None:
        path, _, query = target.partition("?")
        if path == "/calls":
            if method == "DELETE":
                self._upstream.calls.clear()
            calls = self._upstream.calls
            self._answer(200, orjson.dumps({"calls": calls.total(), "by_listing": calls}))
        elif path == "/v2/images" and method == "GET":
            pairs = parse_qsl(query, keep_blank_values=True)
            self._upstream.count_call(pairs)
            loop = asyncio.get_running_loop()
            loop.call_later(self._upstream.draw_delay_s(), lambda: self._answer(*self._upstream.render(pairs)))
        else:
            self._answer(404, b'{"code": 404, "message": "not found"}')

    def _answer(self, status: int, body: bytes) -> None:
        head = f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)


async def serve(port: int, upstream: Upstream) -> None:
    """Listen on *port* until the process ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(upstream), LOOPBACK, port, backlog=4096)
    await server.serve_forever()


def main() -> None:
    """Read the command line and serve."""
    words = argparse.ArgumentParser(prog="python -m tests.load.upstream", description=__doc__)
    words.add_argument("port", type=int)
    words.add_argument("--listings", type=int, default=LISTINGS)
    words.add_argument("--images", type=int, default=IMAGES, help="images in a listing")
    words.add_argument("--delay-ms", type=float, nargs=2, default=(20.0, 50.0), metavar=("LEAST", "MOST"))
    words.add_argument("--seed", type=int, default=1)
    given = words.parse_args()
    listings = make_listings(range(given.listings), images_each=given.images)
    upstream = Upstream(listings, delay_ms=(given.delay_ms[0], given.delay_ms[1]), seed=given.seed)
    uvloop.run(serve(given.port, upstream))


if __name__ == "__main__":
    main()
