"""What answers requests, put together from the settings: the same before a real upstream and before a recorded one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from proxy.auth.authenticators import Door
from proxy.auth.token_acceptance import Credentials, Drop
from proxy.config.model import ServerSection, Settings
from proxy.config.resources import resource_routes
from proxy.core.base import Upstream
from proxy.core.freshness import Verdicts
from proxy.core.values import immutable
from proxy.gateway.admission import Admission
from proxy.gateway.gateway import Gateway
from proxy.listing.again import Again
from proxy.listing.fetcher import Fetcher
from proxy.listing.links import LinkStyle
from proxy.listing.page_cache import PageRenderer
from proxy.listing.prefetch import Readahead
from proxy.listing.request import Asking
from proxy.listing.service import ListingGateway
from proxy.listing.thrift import Thrift
from proxy.observability.logging import Telemetry
from proxy.ratelimit.priority import Claimants
from proxy.resources.fetcher import ResourceFetcher
from proxy.resources.items import ListItems
from proxy.resources.service import ResourceGateway
from proxy.storage.base import SpanStore
from proxy.upstream.forward import Forwarder

_CODED_SHARE: Final = 1 / 64  # of `store.max_bytes`: resources in a content coding
_RENDERED_SHARE: Final = 0.25  # of `store.max_bytes`: rendered pages beside the spans they come from


@immutable
class Answering:
    """The *gateway*, and the parts of it that have work of their own under way."""

    gateway: Gateway
    listings: ListingGateway
    resources: ResourceGateway

    @property
    def busy(self) -> bool:
        """Whether something is being fetched that no caller waits for."""
        return len(self.listings.background) + len(self.resources.background) > 0

    async def close(self) -> None:
        """End what is under way, or wait for it where it has a time limit of its own."""
        await self.gateway.close()
        await self.resources.close()
        await self.listings.close()


def answering(
    settings: Settings,
    upstream: Upstream,
    store: SpanStore,
    asks: Asking,
    *,
    telemetry: Telemetry,
    clock: Callable[[], float],
    dice: Callable[[], float],
    door: Door,
    claimants: Claimants | None = None,
    admission: Admission | None = None,
    drop: Drop | None = None,
    thrift: Thrift | None = None,
) -> Answering:
    """Return what answers requests from *store* and *upstream*; see the parts for what each argument is."""
    fetcher = Fetcher(upstream, store, telemetry=telemetry, clock=clock, dice=dice)
    listings = _listings(settings, fetcher, store, clock, drop, thrift)
    forwarder = Forwarder(upstream, telemetry=telemetry, clock=clock)
    resource_fetcher = _resource_fetcher(settings, forwarder, store, telemetry, clock)
    resources = _resources(settings, resource_fetcher, store, listings.credentials, clock, thrift)
    renderer = PageRenderer(int(settings.store.max_bytes * _RENDERED_SHARE))
    gateway = Gateway(
        listings,
        forwarder,
        renderer,
        asking=asks,
        links=_links(settings.server),
        store=store,
        clock=clock,
        door=door,
        claimants=claimants,
        admission=admission,
        resources=resources,
        routes=resource_routes(settings.cache),
        again=None if settings.store.max_bytes else Again(store, renderer, clock=clock),
    )
    return Answering(gateway, listings, resources)


def _listings(
    settings: Settings,
    fetcher: Fetcher,
    store: SpanStore,
    clock: Callable[[], float],
    drop: Drop | None,
    thrift: Thrift | None,
) -> ListingGateway:
    return ListingGateway(
        fetcher,
        store,
        readahead=Readahead(settings.upstream.max_page, settings.cache.readahead),
        verdicts=Verdicts(settings.identity.verdict_ttl_s, settings.identity.verdict_grace_s),
        negative_s=settings.cache.negative_ttl_s,
        clock=clock,
        drop=drop,
        thrift=thrift,
    )


def _resources(
    settings: Settings,
    fetcher: ResourceFetcher,
    store: SpanStore,
    credentials: Credentials,
    clock: Callable[[], float],
    thrift: Thrift | None,
) -> ResourceGateway:
    return ResourceGateway(
        fetcher,
        credentials,
        negative_s=settings.cache.negative_ttl_s,
        coded_bytes=int(settings.store.max_bytes * _CODED_SHARE),
        clock=clock,
        thrift=thrift,
        items=ListItems(store, clock=clock) if settings.cache.item_from_list else None,
    )


def _resource_fetcher(
    settings: Settings, forwarder: Forwarder, store: SpanStore, telemetry: Telemetry, clock: Callable[[], float]
) -> ResourceFetcher:
    return ResourceFetcher(
        forwarder,
        store,
        most_bytes=settings.cache.max_resource_bytes,
        within_s=2 * settings.upstream.read_timeout_s,
        telemetry=telemetry,
        clock=clock,
    )


def _links(server: ServerSection) -> LinkStyle:
    return LinkStyle(server.links == "absolute", server.public_url, server.trusted_proxies)
