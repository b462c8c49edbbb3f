"""What a crawl of everything costs a real Glance, directly and through a proxy that has nothing yet."""

from __future__ import annotations

import time
from dataclasses import dataclass

from tests.e2e.glance.conftest import Newcomer
from tests.e2e.glance.paging import by_links
from tests.support.environment import Say
from tests.support.glance.server import Glance
from tests.support.proxy import ProxyProcess

FIRST = "/v2/images?limit=25"
MOST_CALLS = 5


@dataclass(frozen=True, slots=True)
class Crawled:
    """The *ids* that a crawl found, the list calls that Glance answered meanwhile, and how long it took."""

    ids: list[str]
    calls: int
    took_s: float


def crawled(origin: str, token: str, glance: Glance) -> Crawled:
    before, began = len(glance.list_calls()), time.monotonic()
    ids = by_links(origin, FIRST, token)
    return Crawled(ids, len(glance.list_calls()) - before, time.monotonic() - began)


def test_a_cold_crawl_of_everything_costs_a_handful_of_calls(
    glance: Glance, proxy: ProxyProcess, newcomer: Newcomer, say: Say
) -> None:
    """All that a project sees, 25 a page: the same images in the same order, for one call in twenty."""
    token = newcomer("alpha")
    directly = crawled(glance.url, token, glance)
    cold = crawled(proxy.url, token, glance)
    again = crawled(proxy.url, token, glance)
    rows = (("directly", directly), ("through the proxy, cold", cold), ("again", again))
    lines = [f"| {name} | {len(row.ids):,} | {row.calls} | {row.took_s:.2f} |" for name, row in rows]
    say("\n".join(("| crawl at limit=25 | images | upstream calls | seconds |", "|---|---|---|---|", *lines)))
    assert cold.ids == again.ids == directly.ids
    assert len(directly.ids) > 1000
    assert directly.calls > len(directly.ids) // 25
    assert (cold.calls <= MOST_CALLS, again.calls) == (True, 0)
