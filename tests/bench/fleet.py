"""What a fleet of callers costs the upstream, through the proxy, its replicas, nginx and Varnish, in one run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from proxy.demo.app import ImsLookalike
from proxy.demo.catalogue import Catalogue
from proxy.demo.throttle import ThrottlePolicy
from tests.bench.load import OURS
from tests.bench.section import Bench, Figure, Section, Taken, table
from tests.bench.servers import nginx, proxy, varnish
from tests.support.redis import RedisServer
from tests.support.trace import TOKENS, Crawl, Figures, catalogue, crawls, run

DIRECTLY = "nobody between"
REPLICAS = (2, 4)
SECRET = "a secret of the bench's own"
# A project may ask eight times a second: the whole trace has to ask more than that, and 1 s is soon over.
THROTTLE = ThrottlePolicy(8, 1)
_MOST_CALLS_A_LISTING = 2.5
_MOST_OF_REPLICAS = 1.05


@dataclass(frozen=True, slots=True)
class Cost:
    """What the trace came to through one of those compared: *throttled* and *refused* are from the throttled run."""

    name: str
    figures: Figures
    refused: int
    calls_refused: int

    @property
    def row(self) -> tuple[str, ...]:
        """What the table says of it."""
        one = self.figures
        return (
            *(self.name, f"{one.requests:,}", f"{one.upstream_calls:,}"),
            *(f"{1000 * one.upstream_calls / one.requests:,.0f}", f"{one.calls_per_listing:.2f}"),
            *(f"{len(one.wrong)} of {one.crawls}", str(self.refused), str(self.calls_refused)),
        )


def measured(bench: Bench) -> Taken:
    """Return what each costs, with the same 200 crawls, or fewer for a first look."""
    trace = crawls(40) if bench.quick else crawls()
    images = catalogue()
    costs: list[Cost] = []
    for name in (DIRECTLY, OURS, *(f"{OURS}, {number} replicas" for number in REPLICAS), "nginx", "Varnish"):
        bench.say(f"fleet: {name}")
        costs.append(asyncio.run(_cost(name, trace, images, bench.home(f"fleet-{len(costs)}"))))
    by_name = {each.name: each for each in costs}
    ours = by_name[OURS].figures
    figures = [
        Figure("fleet: calls a listing and partition", ours.calls_per_listing, "calls", _MOST_CALLS_A_LISTING),
        Figure("fleet: wrong results", float(len(ours.wrong)), "crawls", 0),
        Figure("fleet: 429s that reached a client", float(by_name[OURS].refused), "answers", 0),
    ]
    for number in REPLICAS:
        ratio = by_name[f"{OURS}, {number} replicas"].figures.upstream_calls / ours.upstream_calls
        figures.append(Figure(f"fleet: calls of {number} replicas beside one", ratio, "x", _MOST_OF_REPLICAS))
    return Taken([table(_HEAD, [each.row for each in costs])], figures)


_HEAD = (
    *("the fleet asks", "requests", "upstream calls", "per 1,000 requests", "a listing and partition"),
    *("wrong crawls", "429s to clients", "429s of the upstream"),
)


async def _cost(name: str, trace: Sequence[Crawl], images: Catalogue, home: Path) -> Cost:
    """Return what *trace* costs through what is called *name*, without throttling and, begun anew, with it."""
    calm, _, _ = await _run(name, trace, ImsLookalike(images, TOKENS), home / "calm")
    _, refused, calls_refused = await _run(
        name, trace, ImsLookalike(images, TOKENS, throttle=THROTTLE), home / "throttled"
    )
    return Cost(name, calm, refused, calls_refused)


async def _run(name: str, trace: Sequence[Crawl], upstream: ImsLookalike, home: Path) -> tuple[Figures, int, int]:
    """Return what *trace* came to, how many 429s its callers got, and how many the upstream gave."""
    await asyncio.to_thread(home.mkdir)
    async with upstream:
        port = int(upstream.base_url.rpartition(":")[2])
        with ExitStack() as stack:
            urls = await asyncio.to_thread(stack.enter_context, _servers(name, port, home))
            figures = await run(
                trace, upstream.catalogue, lambda: upstream.calls, lambda crawl: lambda page: urls[page % len(urls)]
            )
            refused = sum(" 429 " in wrong for wrong in figures.wrong)
            given = sum(call.status == 429 for call in upstream.calls)
            await asyncio.to_thread(stack.close)
    return figures, refused, given


@contextmanager
def _servers(name: str, port: int, home: Path) -> Iterator[list[str]]:
    """Run what is called *name* before the upstream, and give where it is."""
    with ExitStack() as stack:
        if name == DIRECTLY:
            yield [f"http://127.0.0.1:{port}"]
        elif name in ("nginx", "Varnish"):
            made = nginx if name == "nginx" else varnish
            yield [stack.enter_context(made(port, home)).url]
        else:
            settings = {"IDENTITY__SECRET": SECRET, "CACHE__TRANSIENT_TTL_S": "3600"}
            number = 1 if name == OURS else int(name.split()[1])
            if number > 1:
                settings |= {"STORE__URL": stack.enter_context(RedisServer(home)).url}
            urls = []
            for replica in range(number):
                own = home / str(replica)
                own.mkdir()
                urls.append(stack.enter_context(proxy(port, own, settings=settings)).url)
            yield urls


SECTION = Section(
    "What a fleet costs the upstream",
    measured,
    f"""\
200 crawls by 20 callers of 5 projects, 16 at a time, over 2,000 images: six listings (a repeated tag among them),
pages of 10 to 200, parameters in any order, escaped in several ways, defaults spelt out by some;
`tests/support/trace.py` draws them, the same each time. Each caller pages by the `next` that it is given, and what it
found is compared with the truth. Nothing expires while it runs, in any of the caches, and each begins empty. Replicas
take the requests of a crawl in turn.

nginx and Varnish are configured as below, at their best for this: one fetch for equal requests at once
(`proxy_cache_lock`; Varnish does so by itself), and the token in the key. What they get wrong is the upstream's own
`next`, which has lost all but one of a repeated parameter.

The 429s are from a second run, each cache empty again, before an upstream that lets a project ask {THROTTLE.limit}
times in any {THROTTLE.window_s} s and answers 429 beyond that, as Huawei Cloud does by the minute. The proxy is told
nothing of that limit: it learns it from the first 429, keeps to it, and makes its callers wait.""",
)
