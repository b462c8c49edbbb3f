"""Concurrent callers with keep-alive connections: `python -m tests.load.generator --out FILE … URL…`.

Each caller has a connection of its own, and asks for listings and limits drawn at random, from the same seed in each
run. All send the same token. Each answer is compared with what the listing holds.

By default every head differs in a field and has `TE: trailers`, which no memory of heads answers: each request goes the
whole way through the proxy. With `--heads request` every head differs in a field alone, with `--heads caller` those of
one caller are the same.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import resource
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Final, cast
from urllib.parse import urlsplit

import orjson
import uvloop

from tests.load.listings import IMAGES, LIMITS, LISTINGS, Image, make_listings, name_listing

TOKEN: Final = "load-test-token-" + "t" * 176
HANG_S: Final = 60.0
WHOLE, REQUEST, CALLER = "whole", "request", "caller"
HEADS: Final = (WHOLE, REQUEST, CALLER)
_REPORTED: Final = 10
_CONTENT_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOSE: Final = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Response:
    """An answer; *closes* says that the server ends the connection behind it."""

    status: int
    body: bytes
    closes: bool


class BrokenOffError(Exception):
    """The connection ended before the answer was complete."""


class Connection(asyncio.Protocol):
    """One client connection, one request at a time, answers with a Content-Length."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._complete_at = -1
        self._body_at = 0
        self._waiting: asyncio.Future[Response] | None = None
        self.open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.open = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(BrokenOffError(str(exc or "closed")))

    async def ask(self, head: bytes) -> Response:
        """Send *head* and return the answer; raises BrokenOffError."""
        if not self.open:
            raise BrokenOffError("closed")
        self._received.clear()
        self._complete_at = -1
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(head)
        return await self._waiting

    def close(self) -> None:
        """End the connection."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._complete_at < 0 and (end := self._received.find(b"\r\n\r\n")) >= 0:
            length = _CONTENT_LENGTH.search(self._received, 0, end + 2)
            self._body_at = end + 4
            self._complete_at = self._body_at + (int(length[1]) if length else 0)
        if 0 <= self._complete_at <= len(self._received) and self._waiting is not None and not self._waiting.done():
            status = int(self._received[9:12])
            closes = _CLOSE.search(self._received, 0, self._body_at) is not None
            self._waiting.set_result(Response(status, bytes(self._received[self._body_at : self._complete_at]), closes))


@dataclass(slots=True)
class Tally:
    """What all callers met; *asked* holds the listings that were asked for at each URL."""

    answers: int = 0
    failed: int = 0
    failures: list[str] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    asked: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def count_failure(self, what: str) -> None:
        """Count a failure, and keep the first few to report."""
        self.failed += 1
        if len(self.failures) < _REPORTED:
            self.failures.append(what)


class Expected:
    """What each page has to show. A body that was found right once is compared byte by byte from then on."""

    def __init__(self, listings: dict[str, list[Image]]) -> None:
        self._listings = listings
        self._right: dict[tuple[str, int], bytes] = {}

    def find_fault(self, name: str, limit: int, response: Response) -> str | None:
        """Return what is wrong with the answer for the first page of *name*, None where nothing is."""
        if response.status != 200:
            return f"{response.status} {response.body[:200]!r}"
        if self._right.get((name, limit)) == response.body:
            return None
        try:
            answer = orjson.loads(response.body)
        except orjson.JSONDecodeError as error:
            return f"no JSON: {error}"
        selected = self._listings[name][:limit]
        if answer.get("images") != [image.document for image in selected]:
            return f"wrong images: {len(answer.get('images', ()))}, expected {len(selected)}"
        if ("next" in answer) != (len(selected) == limit):
            return f"next: {answer.get('next')}"
        self._right[name, limit] = response.body
        return None


class Load:
    """*callers* callers, spread over *urls* in turn, until *requests* were asked for or *seconds* have passed."""

    def __init__(
        self,
        urls: Sequence[str],
        *,
        callers: int,
        first: int,
        listings: int,
        images: int,
        limits: Sequence[int],
        requests: int | None,
        seconds: float | None,
        seed: int,
        heads: str,
    ) -> None:
        self._urls = urls
        self._callers = callers
        self._first = first
        self._listings = listings
        self._limits = limits
        self._left = requests
        self._seconds = seconds
        self._seed = seed
        self._heads = heads
        self._expected = Expected(make_listings(range(first, first + listings), images_each=images))
        self.tally = Tally()
        self.elapsed_s = 0.0
        self.cpu_s = 0.0

    async def run(self) -> None:
        """Let all callers ask, beginning together once all are connected."""
        connections = await asyncio.gather(*(self._connect(number) for number in range(self._callers)))
        began, cpu_began_s = time.perf_counter(), time.process_time()
        self._ends_at = None if self._seconds is None else began + self._seconds
        await asyncio.gather(*(self._call(number, each) for number, each in enumerate(connections)))
        self.elapsed_s, self.cpu_s = time.perf_counter() - began, time.process_time() - cpu_began_s

    async def _connect(self, number: int) -> Connection:
        host, _, port = urlsplit(self._urls[number % len(self._urls)]).netloc.partition(":")
        async with asyncio.timeout(HANG_S):
            _, connection = await asyncio.get_running_loop().create_connection(Connection, host, int(port))
        return connection

    def _take_request(self) -> bool:
        if self._left is not None:
            self._left -= 1
            return self._left >= 0
        return self._ends_at is None or time.perf_counter() < self._ends_at

    async def _call(self, number: int, connection: Connection) -> None:
        rng = random.Random(f"{self._seed}/{number}")
        url = self._urls[number % len(self._urls)]
        fields = f"Host: {urlsplit(url).netloc}\r\nUser-Agent: caller-{number}/1.0\r\nX-Auth-Token: {TOKEN}\r\n"
        if self._heads == WHOLE:
            fields += "TE: trailers\r\nConnection: TE\r\n"
        trace = count()
        while self._take_request():
            name = name_listing(self._first + rng.randrange(self._listings))
            limit = rng.choice(self._limits)
            self.tally.asked[url].add(name)
            differing = "" if self._heads == CALLER else f"X-Trace: {number}-{next(trace)}\r\n"
            head = f"GET /v2/images?name={name}&limit={limit} HTTP/1.1\r\n{fields}{differing}\r\n".encode()
            began = time.perf_counter()
            try:
                if not connection.open:
                    connection = await self._connect(number)
                async with asyncio.timeout(HANG_S):
                    response = await connection.ask(head)
            except (OSError, TimeoutError, BrokenOffError) as error:
                self.tally.count_failure(f"{name}, limit {limit}: {type(error).__name__} {error}")
                connection.close()
                continue
            self.tally.latencies_s.append(time.perf_counter() - began)
            self.tally.answers += 1
            if (fault := self._expected.find_fault(name, limit, response)) is not None:
                self.tally.count_failure(f"{name}, limit {limit}: {fault}")
            if response.closes:
                connection.close()
        connection.close()


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the value that *share* of *ordered* are not above, 0 where there are none."""
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0


def main() -> None:
    """Read the command line, run the load, and write what came of it as JSON."""
    words = argparse.ArgumentParser(prog="python -m tests.load.generator", description=__doc__)
    words.add_argument("urls", nargs="+", metavar="URL")
    words.add_argument("--out", type=Path, required=True)
    words.add_argument("--callers", type=int, required=True)
    words.add_argument("--first", type=int, default=0, help="number of the first listing")
    words.add_argument("--listings", type=int, default=LISTINGS)
    words.add_argument("--images", type=int, default=IMAGES)
    words.add_argument("--limits", type=int, nargs="+", default=LIMITS)
    words.add_argument("--requests", type=int)
    words.add_argument("--seconds", type=float)
    words.add_argument("--seed", type=int, default=1)
    words.add_argument("--heads", choices=HEADS, default=WHOLE)
    given = words.parse_args()
    if (given.requests is None) == (given.seconds is None):
        words.error("one of --requests and --seconds is needed")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    load = Load(
        given.urls,
        callers=given.callers,
        first=given.first,
        listings=given.listings,
        images=given.images,
        limits=given.limits,
        requests=given.requests,
        seconds=given.seconds,
        seed=given.seed,
        heads=given.heads,
    )
    uvloop.run(load.run())
    tally = load.tally
    latencies_ms = sorted(1000 * each for each in tally.latencies_s)
    result = {
        "answers": tally.answers,
        "failed": tally.failed,
        "failures": tally.failures,
        "elapsed_s": load.elapsed_s,
        "cpu_s": load.cpu_s,
        "p50_ms": quantile(latencies_ms, 0.5),
        "p99_ms": quantile(latencies_ms, 0.99),
        "max_ms": latencies_ms[-1] if latencies_ms else 0.0,
        "listings_asked": len(set().union(*tally.asked.values())),
        "listings_asked_by_replica": sum(map(len, tally.asked.values())),
    }
    given.out.write_bytes(orjson.dumps(result))


if __name__ == "__main__":
    main()
