"""Replicas of the proxy in this process, on one store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from typing import Protocol

import aiohttp

from proxy.config.model import AdminSection as Admin
from proxy.config.model import CacheSection, IdentitySection, Settings, StoreSection, UpstreamSection
from proxy.config.model import ServerSection as Server
from proxy.demo.app import ImsLookalike, RecordedCall
from proxy.runtime.app import RunningProxy, run_proxy
from tests.support.trace import Origin

ANYWHERE = "127.0.0.1:0"
DEFAULTS = StoreSection()
SECRET = "a secret of the fleet's own"


def settings(
    upstream: str,
    *,
    store: str = "memory://",
    timeout_ms: float = DEFAULTS.timeout_ms,
    ttl_s: float = 60.0,
    near_ttl_s: float = DEFAULTS.near_cache_ttl_s,
    max_bytes: int = DEFAULTS.max_bytes,
    iam_url: str = "",
) -> Settings:
    """Return the settings of a replica on free ports before *upstream*: by project where there is an IAM to ask.

    What is not given is as a user has it by default.
    """
    return Settings(
        upstream=UpstreamSection(url=upstream),
        server=Server(listen=ANYWHERE, drain_s=0.0),
        admin=Admin(listen=ANYWHERE),
        identity=IdentitySection(secret=SECRET, mode="project" if iam_url else "token", iam_url=iam_url),
        cache=CacheSection(ttl_s=ttl_s),
        store=StoreSection(url=store, timeout_ms=timeout_ms, near_cache_ttl_s=near_ttl_s, max_bytes=max_bytes),
    )


@asynccontextmanager
async def replicas(number: int, each: Settings) -> AsyncIterator[list[RunningProxy]]:
    """Run *number* proxies with the settings *each*."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(run_proxy(each)) for _ in range(number)]


def list_calls(lookalike: ImsLookalike) -> list[RecordedCall]:
    """Return the list requests that reached *lookalike*."""
    return [call for call in lookalike.calls if call.method == "GET" and call.target.startswith("/v2/images?")]


def round_robin(proxies: list[RunningProxy]) -> Origin:
    """Spread the requests of all crawls over *proxies* in turn."""
    turns = count()
    return lambda _page: proxies[next(turns) % len(proxies)].url


class HasAdmin(Protocol):
    """A replica, in this process or in one of its own."""

    @property
    def admin_url(self) -> str:
        """Where operators come."""
        ...


async def metric(client: aiohttp.ClientSession, proxies: Sequence[HasAdmin], name: str) -> float:
    """Return the sum of the samples *name*, whatever their labels, over *proxies*."""
    total = 0.0
    for proxy in proxies:
        async with client.get(f"{proxy.admin_url}/metrics") as response:
            lines = (await response.text()).splitlines()
        total += sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))
    return total


async def collapsed(client: aiohttp.ClientSession, proxies: Sequence[HasAdmin]) -> float:
    """Return how many requests have joined another's fetch in their own replica."""
    return await metric(client, proxies, "ims_proxy_collapsed_requests_total")
