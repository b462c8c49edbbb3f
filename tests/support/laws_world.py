"""A listing gateway over an upstream with a history and a clock held by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from proxy.core.freshness import Lifetimes, TrustPeriod
from proxy.core.list_api import IMAGES
from proxy.core.messages import Fields, Request
from proxy.core.partition import Partitioner
from proxy.listing.fetcher import SpanFetcher
from proxy.listing.prefetch import FetchSizing
from proxy.listing.request import LifetimeRule, LifetimeRules, ListRequest, ListRules, PageSizes, parse_list_request
from proxy.listing.service import ListingService
from proxy.observability.logging import Telemetry
from proxy.storage.base import SpanStore
from tests.support.history import LONGEST, Hand, Upstream

SECRET = b"a secret of the laws"
LIFETIMES = Lifetimes(10.0, transient_ttl_s=2.0, stale_while_revalidate_s=5.0, stale_if_error_s=20.0)
NEGATIVE_S = 3.0


@dataclass(frozen=True, slots=True)
class Replica:
    """One proxy below its web layer."""

    gateway: ListingService
    store: SpanStore
    asking: ListRules

    def ask(self, query: str, *, token: str = "mine", path: str = "/v2/images", control: str = "") -> ListRequest:
        """Return what a request for *query* asks for."""
        lines = [("X-Auth-Token", token), *([("Cache-Control", control)] if control else [])]
        made = parse_list_request(Request("GET", f"{path}?{query}", Fields(lines), "id"), self.asking)
        assert isinstance(made, ListRequest), made
        return made


def replica(
    upstream: Upstream,
    store: SpanStore,
    hand: Hand,
    *,
    lifetimes: Lifetimes = LIFETIMES,
    rules: tuple[LifetimeRule, ...] = (),
    verdict_ttl_s: float = 1e9,
    verdict_grace_s: float = 0.0,
    longest: int = LONGEST,
    readahead: bool = True,
    extension: bool = False,
    dice: Callable[[], float] = lambda: 0.0,
) -> Replica:
    """Return a replica before *upstream* whose pages hold *longest* images at the most."""
    gateway = ListingService(
        SpanFetcher(upstream, store, telemetry=Telemetry(), clock=hand, rng=dice),
        store,
        sizing=FetchSizing(longest, readahead),
        trust=TrustPeriod(verdict_ttl_s, verdict_grace_s),
        negative_s=NEGATIVE_S,
        clock=hand,
    )
    asking = ListRules(
        Partitioner(SECRET),
        PageSizes(longest, {IMAGES.path: min(longest, 5)}),
        LifetimeRules(lifetimes, rules),
        use_cloudimages=extension,
    )
    return Replica(gateway, store, asking)
