"""The fleet trace: 200 crawls by 20 callers of 5 projects, the same on every machine, and the truth about each.

Callers ask for the same six listings in as many spellings as clients have: parameters in any order, a space as `%20`
or `+`, escapes nobody needs, defaults spelt out. Each pages as clients do, by the `next` that it is given.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import parse_qsl

import aiohttp
import orjson
from yarl import URL

from proxy.demo.app import RecordedCall
from proxy.demo.catalogue import Catalogue
from proxy.demo.filters import Caller
from proxy.demo.query import parse_list_query
from proxy.demo.seed import ALPHA_PROJECT, BETA_PROJECT, GOLD_PROJECT, generate_images

Pairs = tuple[tuple[str, str], ...]
Document = Mapping[str, object]

PROJECTS: Final = (ALPHA_PROJECT, BETA_PROJECT, *(f"{number:032x}" for number in (0xC, 0xD, 0xE)))
TOKENS: Final = {
    f"fleet-token-{number}-{member}": Caller(f"fleet-user-{number}-{member}", project)
    for number, project in enumerate(PROJECTS)
    for member in range(4)
}
FILTERS: Final[tuple[Pairs, ...]] = (
    (),
    (("visibility", "public"),),
    (("status", "active"), ("sort_dir", "asc")),
    (("__os_version", "Ubuntu 24.04 server 64bit"), ("__isregistered", "true")),
    (("tag", "release candidate"), ("tag", "nightly")),
    (("visibility", "private"), ("sort_key", "name"), ("sort_dir", "asc")),
)
PAGE_SIZES: Final = (10, 20, 25, 50, 100, 200)
IMAGES: Final = 2_000
CRAWLS: Final = 200
AT_ONCE: Final = 16
_DEFAULTS: Final = {"sort_key": "created_at", "sort_dir": "desc"}
_KEPT: Final = (
    *("id", "name", "status", "visibility", "owner", "protected", "container_format", "disk_format", "size"),
    *("tags", "created_at", "updated_at", "self", "file", "__os_version", "__isregistered"),
)
_MOST_PAGES: Final = 400
_ENDED: Final = object()

Origin = Callable[[int], str]


@dataclass(frozen=True, slots=True)
class Crawl:
    """One caller who reads a whole listing, *limit* images a page; *target* is how it spells its first request."""

    number: int
    token: str
    filters: Pairs
    limit: int
    target: str


@dataclass(slots=True)
class Crawled:
    """What a crawl met: how many pages it asked for, and every answer that was no page or a wrong one."""

    crawl: Crawl
    pages: int = 0
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Figures:
    """What a run of the trace cost."""

    crawls: int
    requests: int
    listings: int
    upstream_calls: int
    wrong: tuple[str, ...]
    by_listing: dict[tuple[str, Pairs], tuple[int, ...]]

    @property
    def calls_per_listing(self) -> float:
        """Upstream list calls for each distinct pair of partition and listing."""
        return self.upstream_calls / self.listings

    def __str__(self) -> str:
        """Return the figures in one line."""
        return (
            f"{self.crawls} crawls, {self.requests} requests, {self.listings} (partition, listing) pairs: "
            f"{self.upstream_calls} upstream calls, {self.calls_per_listing:.2f} a pair, {len(self.wrong)} wrong"
        )

    def breakdown(self) -> str:
        """Return where the calls went: for each filter its pairs, its calls, and the most common strides."""
        lines = []
        for filters in FILTERS:
            strides = [each for (_, asked), each in self.by_listing.items() if sorted(asked) == sorted(filters)]
            common = ", ".join(f"{run} x{times}" for run, times in Counter(strides).most_common(6))
            lines.append(f"  {dict(filters)}: {len(strides)} pairs, {sum(map(len, strides))} calls; {common}")
        return "\n".join(lines)


def catalogue(count: int = IMAGES) -> Catalogue:
    """Return *count* images, an eleventh of them public, the others shared out evenly among the projects.

    They are cut down to what the trace asks by: it counts calls, not bytes.
    """
    whole = generate_images(count, seed=20, owners=(*PROJECTS, *PROJECTS, GOLD_PROJECT))
    return Catalogue(replace(image, document={name: image.document[name] for name in _KEPT}) for image in whole)


def crawls(count: int = CRAWLS, *, seed: int = 200) -> list[Crawl]:
    """Return the trace."""
    dice = random.Random(seed)
    tokens = list(TOKENS)
    made = []
    for number in range(count):
        filters, limit = dice.choice(FILTERS), dice.choice(PAGE_SIZES)
        made.append(Crawl(number, dice.choice(tokens), filters, limit, spelt(filters, limit, dice)))
    return made


def spelt(filters: Pairs, limit: int, dice: random.Random) -> str:
    """Return the target of a first page as one of many clients would spell it."""
    pairs = [*filters, ("limit", str(limit))]
    for name, value in _DEFAULTS.items():
        if dice.random() < 0.3 and name not in dict(pairs):
            pairs.append((name, value))
    dice.shuffle(pairs)
    plus, needless = dice.random() < 0.5, dice.choice((0.0, 0.0, 0.1))

    def escaped(text: str) -> str:
        return "".join(_escaped(character, plus=plus, needless=dice.random() < needless) for character in text)

    return "/v2/images?" + "&".join(f"{escaped(name)}={escaped(value)}" for name, value in pairs)


def _escaped(character: str, *, plus: bool, needless: bool) -> str:
    if character == " ":
        return "+" if plus else "%20"
    if needless or not (character.isascii() and (character.isalnum() or character in "-._~:,")):
        return "".join(f"%{byte:02X}" if needless else f"%{byte:02x}" for byte in character.encode())
    return character


def truth(store: Catalogue, crawl: Crawl) -> list[Document]:
    """Return what *crawl* has to find, computed from *store* in one page."""
    query = parse_list_query(
        [*crawl.filters, ("limit", str(len(store) + 1))], default_limit=1, max_limit=len(store) + 1
    )
    return [image.document for image in store.list_page(TOKENS[crawl.token], query).images]


def sought(crawl: Crawl) -> tuple[Caller, Pairs]:
    """Return what decides the result of *crawl*: a project's callers see the same."""
    return TOKENS[crawl.token]._replace(user=""), crawl.filters


async def pages(
    client: aiohttp.ClientSession, origin: Origin, done: Crawled, expected: Sequence[Document] | None
) -> AsyncIterator[None]:
    """Enter in *done* what its crawl meets, a page each time; *origin* gives the replica that the n-th request goes to.

    Without *expected* the catalogue changes meanwhile: then images only have to be whole, and none may come twice.
    """
    crawl = done.crawl
    found: list[Document] = []
    target = crawl.target
    for page in range(_MOST_PAGES):
        done.pages += 1
        fields = {"X-Auth-Token": crawl.token, "Accept-Encoding": "identity"}
        async with client.get(URL(origin(page) + target, encoded=True), headers=fields) as response:
            body = await response.read()
        if response.status != 200:
            done.wrong.append(f"crawl {crawl.number} page {page}: {response.status} {body[:200]!r}")
            return
        answer = orjson.loads(body)
        shown = answer["images"]
        if len(shown) > crawl.limit or ("next" in answer and len(shown) != crawl.limit):
            done.wrong.append(f"crawl {crawl.number} page {page}: {len(shown)} images of {crawl.limit}")
        found += shown
        if "next" not in answer:
            break
        target = answer["next"]
        yield
    else:
        done.wrong.append(f"crawl {crawl.number}: no end within {_MOST_PAGES} pages")
    if expected is not None and found != list(expected):
        done.wrong.append(f"crawl {crawl.number} {crawl.target}: {len(found)} images, {len(expected)} expected")


async def followed(each: AsyncIterator[None]) -> None:
    """Ask for all the pages of a crawl."""
    async for _ in each:
        pass


async def interleaved(crawls: Sequence[AsyncIterator[None]], *, at_once: int, dice: random.Random) -> None:
    """Ask for the pages of *crawls* one after the other: *dice* decide which crawl goes on next."""
    waiting = list(crawls)
    under_way: list[AsyncIterator[None]] = []
    while waiting or under_way:
        while waiting and len(under_way) < at_once:
            under_way.append(waiting.pop(dice.randrange(len(waiting))))
        each = dice.choice(under_way)
        if await anext(each, _ENDED) is _ENDED:
            under_way.remove(each)


async def run(
    trace: Iterable[Crawl],
    store: Catalogue,
    calls: Callable[[], Iterable[RecordedCall]],
    origin: Callable[[Crawl], Origin],
    *,
    at_once: int = AT_ONCE,
    began: Callable[[Crawl], Awaitable[None]] | None = None,
    settled: bool = True,
    dice: random.Random | None = None,
) -> Figures:
    """Return what *trace* cost, at most *at_once* of its crawls under way at a time.

    *calls* gives what the upstream was asked since the run began; *began* is awaited before each crawl. Unless
    *settled*, *store* changes meanwhile and results are not compared with it. With *dice* they decide the order of all
    requests, of which then one is under way at a time.
    """
    trace = list(trace)
    expected = {sought(crawl): truth(store, crawl) for crawl in {sought(crawl): crawl for crawl in trace}.values()}
    gate = asyncio.Semaphore(at_once)
    timeout = aiohttp.ClientTimeout(total=60)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as client:

        def of(each: Crawled) -> AsyncIterator[None]:
            return pages(client, origin(each.crawl), each, expected[sought(each.crawl)] if settled else None)

        async def one(each: Crawled) -> None:
            async with gate:
                if began is not None:
                    await began(each.crawl)
                await followed(of(each))

        done = [Crawled(crawl) for crawl in trace]
        if dice is None:
            await asyncio.gather(*map(one, done))
        else:
            await interleaved([*map(of, done)], at_once=at_once, dice=dice)
    by_listing: defaultdict[tuple[str, Pairs], list[int]] = defaultdict(list)
    for call in calls():
        pairs = parse_qsl(call.target.partition("?")[2])
        listing = tuple(sorted(pair for pair in pairs if pair[0] not in ("limit", "marker")))
        by_listing[call.headers.get("X-Auth-Token", ""), listing].append(int(dict(pairs).get("limit", 0)))
    return Figures(
        crawls=len(done),
        requests=sum(each.pages for each in done),
        listings=len({(each.crawl.token, each.crawl.filters) for each in done}),
        upstream_calls=sum(map(len, by_listing.values())),
        wrong=tuple(wrong for each in done for wrong in each.wrong),
        by_listing={at: tuple(strides) for at, strides in by_listing.items()},
    )
