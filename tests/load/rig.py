"""All that the load needs, each in a process of its own: upstream, Redis, proxies, load generator, busy neighbour."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from tests.load.generator import WHOLE
from tests.load.listings import LISTINGS
from tests.support.http import ask
from tests.support.ports import free_port
from tests.support.processes import LOOPBACK, Argv, Program, running, start, tcp_open
from tests.support.proxy import ProxyProcess
from tests.support.redis import RedisServer

MEMORY, REDIS = "memory", "redis"
# What a proxy logs when it takes the store to be away.
BREAKER_EVENTS: Final = ("circuit_open",)
_REPO: Final = Path(__file__).parents[2]
_SLACK_S: Final = 150.0
_LEAST_RATE: Final = 50.0  # answers per second that even the slowest machine gives


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run of the load came to; *cpu_s* is the processor time of the callers.

    *listings_asked* counts each listing once, *listings_asked_by_replica* once for each replica that was asked for it.
    """

    callers: int
    store: str
    replicas: int
    hog: bool
    answers: int
    failed: int
    failures: Sequence[str]
    elapsed_s: float
    cpu_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    listings_asked: int
    listings_asked_by_replica: int
    upstream_calls: int
    most_calls_of_a_listing: int
    store_errors: int
    breaker_events: Sequence[str]

    @property
    def expected_calls(self) -> int:
        """Upstream calls of a cache that fetches each listing once: for all replicas where they share a store."""
        return self.listings_asked_by_replica if self.store == MEMORY else self.listings_asked

    @property
    def answers_per_s(self) -> float:
        """Answers per second of the whole run."""
        return self.answers / self.elapsed_s if self.elapsed_s else 0.0

    def describe(self) -> str:
        """Return the figures in one line."""
        return ", ".join(f"{name} {cell}" for name, cell in zip(HEAD, self.row, strict=True))

    @property
    def row(self) -> tuple[str, ...]:
        """The cells below `HEAD`."""
        store = f"{self.store} x{self.replicas}" + (" +hog" if self.hog else "")
        return (
            *(str(self.callers), store, f"{self.answers:,}", f"{self.answers_per_s:,.0f}", str(self.failed)),
            *(f"{self.p50_ms:,.0f}", f"{self.p99_ms:,.0f}", f"{self.max_ms:,.0f}"),
            *(f"{self.upstream_calls:,}", str(self.listings_asked), str(self.most_calls_of_a_listing)),
            *(str(self.store_errors), str(len(self.breaker_events))),
        )


HEAD: Final = (
    *("callers", "store", "answers", "per s", "failed", "p50 ms", "p99 ms", "max ms", "upstream calls"),
    *("listings asked", "most calls of one", "store errors", "breaker events"),
)


@dataclass(frozen=True, slots=True)
class Rig:
    """Proxies with a user's default settings before an upstream that counts, and what their load came to."""

    upstream_port: int
    proxies: Sequence[ProxyProcess]
    directory: Path
    store: str

    def run(
        self,
        callers: int,
        *,
        requests: int | None = None,
        seconds: float | None = None,
        seed: int = 1,
        heads: str = WHOLE,
        first: int = 0,
        hog: bool = False,
    ) -> Outcome:
        """Let *callers* ask, either *requests* in all or for *seconds*, and return what came of it.

        They ask for `LISTINGS` listings, the first of which has the number *first*: others are not stored yet. With
        *hog* they do so beside a process that takes a whole core.
        """
        forget_calls(self.upstream_port)
        errors_before, events_before = self.count_store_errors(), len(find_breaker_events(self.proxies))
        urls = [proxy.url for proxy in self.proxies]
        with run_hog(self.directory) if hog else nullcontext():
            result = generate(
                urls,
                callers,
                directory=self.directory,
                requests=requests,
                seconds=seconds,
                seed=seed,
                heads=heads,
                first=first,
            )
        by_listing = count_calls(self.upstream_port)
        return Outcome(
            callers=callers,
            store=self.store,
            replicas=len(self.proxies),
            hog=hog,
            upstream_calls=sum(by_listing.values()),
            most_calls_of_a_listing=max(by_listing.values(), default=0),
            store_errors=self.count_store_errors() - errors_before,
            breaker_events=find_breaker_events(self.proxies)[events_before:],
            **result,
        )

    def count_store_errors(self) -> int:
        """Return how many calls to the store have failed, by the proxies' metrics."""
        samples = [sample for proxy in self.proxies for sample in proxy.metrics().items()]
        failed = {name: value for name, value in samples if name.startswith("ims_proxy_store_errors_total") and value}
        print(failed, file=sys.stderr)
        return round(sum(failed.values()))


def find_breaker_events(proxies: Iterable[ProxyProcess]) -> list[str]:
    """Return the lines, oldest first, in which *proxies* have logged that the store is away."""
    lines = [line for proxy in proxies for line in proxy.program.log.read_text().splitlines()]
    found = [line for line in lines if any(f'"event":"{name}"' in line for name in BREAKER_EVENTS)]
    return sorted(found, key=lambda line: float(orjson.loads(line)["at"]))


def generate(
    urls: Sequence[str],
    callers: int,
    *,
    directory: Path,
    requests: int | None = None,
    seconds: float | None = None,
    seed: int = 1,
    heads: str = WHOLE,
    first: int = 0,
) -> dict[str, Any]:
    """Run the load generator against *urls* and return what it wrote."""
    out = directory / "load.json"
    bound = ("--requests", str(requests)) if seconds is None else ("--seconds", str(seconds))
    argv: Argv = [
        *(sys.executable, "-m", "tests.load.generator", "--out", out, "--callers", str(callers)),
        *("--seed", str(seed), "--heads", heads, "--first", str(first), *bound, *urls),
    ]
    program = start(argv, log=directory / "load.log", cwd=_REPO)
    program.wait_end(within_s=_SLACK_S + (seconds or 0.0) + (requests or 0) / _LEAST_RATE)
    result: dict[str, Any] = orjson.loads(out.read_bytes())
    return result


def count_calls(upstream_port: int) -> dict[str, int]:
    """Return how often the upstream was asked for each listing."""
    by_listing: dict[str, int] = ask(f"http://{LOOPBACK}:{upstream_port}", "/calls").json()["by_listing"]
    return by_listing


def forget_calls(upstream_port: int) -> None:
    """Set the upstream's counts to zero."""
    ask(f"http://{LOOPBACK}:{upstream_port}", "/calls", method="DELETE")


@contextmanager
def run_upstream(directory: Path, *words: str) -> Iterator[int]:
    """Run the upstream and give its port."""
    port = free_port()
    argv: Argv = [sys.executable, "-m", "tests.load.upstream", str(port), *words]
    with running(argv, log=directory / "upstream.log", ready=tcp_open(port), cwd=_REPO):
        yield port


@contextmanager
def run_hog(directory: Path) -> Iterator[Program]:
    """Run a process that takes a whole core."""
    argv: Argv = [sys.executable, "-m", "tests.load.hog"]
    with running(argv, log=directory / "hog.log", ready=lambda: True, cwd=_REPO) as program:
        yield program


@contextmanager
def run_proxies(
    upstream_port: int, directory: Path, *, replicas: int, store_url: str, settings: Mapping[str, str] | None = None
) -> Iterator[list[ProxyProcess]]:
    """Run *replicas* proxies with default settings, but for *settings*."""
    with ExitStack() as stack:
        proxies = []
        for number in range(replicas):
            home = directory / f"proxy-{number}"
            home.mkdir()
            process = ProxyProcess(f"http://{LOOPBACK}:{upstream_port}", home, store=store_url, settings=settings)
            proxies.append(stack.enter_context(process))
        yield proxies


@contextmanager
def run_rig(
    directory: Path,
    *,
    store: str = MEMORY,
    replicas: int = 1,
    listings: int = LISTINGS,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Rig]:
    """Run all but the load generator, which `Rig.run` starts. The upstream has *listings* listings."""
    with ExitStack() as stack:
        port = stack.enter_context(run_upstream(directory, "--listings", str(listings)))
        store_url = "memory://" if store == MEMORY else stack.enter_context(RedisServer(directory)).url
        proxies = stack.enter_context(
            run_proxies(port, directory, replicas=replicas, store_url=store_url, settings=settings)
        )
        yield Rig(port, proxies, directory, store)
