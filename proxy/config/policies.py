"""How lists are asked for and how long they live, from the settings.

Which resources are answered from the store, put together from the settings of `cache`.
"""

from __future__ import annotations

from typing import Final

from proxy.config.model import CacheSection, RouteSection, Settings
from proxy.core.freshness import Lifetimes
from proxy.core.list_query import Unclear, parsed
from proxy.core.partition import Partitioner
from proxy.http.stored_response import Policy
from proxy.listing.request import Asking, PageSizes, Rule, Rules
from proxy.resources.routes import IMAGES, ResourceRoute, ResourceRoutes


def asking(settings: Settings, secret: bytes) -> Asking:
    """Return how lists are asked for; *secret* is the key of the partitions' digests."""
    upstream = settings.upstream
    return Asking(
        Partitioner(secret),
        page_sizes(settings),
        rules(settings.cache),
        extension=upstream.list_api == "cloudimages",
        share_public=settings.identity.share_public,
    )


def page_sizes(settings: Settings) -> PageSizes:
    """Return the upstream's page sizes."""
    upstream = settings.upstream
    return PageSizes(upstream.max_page, upstream.default_page, upstream.default_page_cloudimages)


def rules(cache: CacheSection) -> Rules:
    """Return the lifetimes by rule; what a rule does not name is as for all lists."""
    names = ("ttl_s", "transient_ttl_s", "stale_while_revalidate_s", "stale_if_error_s")
    each: list[Rule] = []
    for section in cache.rules:
        query = parsed(section.query)
        assert not isinstance(query, Unclear)
        own = {name: value for name in names if (value := getattr(section, name)) is not None}
        each.append(Rule(Lifetimes(**{name: getattr(cache, name) for name in names} | own), section.path, query.pairs))
    return Rules(Lifetimes(*(getattr(cache, name) for name in names)), tuple(each))


# What the cloud's operator changes, not its users: the forms of images, and the systems that images may have.
_SETTLED_S: Final = 3600.0
_SETTLED: Final = ("/v2/schemas/*", "/v1/cloudimages/os_version")
_CHANGING: Final = (IMAGES, "/v1/cloudimages/quota")


def resource_routes(cache: CacheSection) -> ResourceRoutes:
    """Return the routes: those that *cache* names, and behind them what the image API has; none with no lifetime."""
    routes = [_named(section, cache) for section in cache.routes]
    if cache.ttl_s > 0:
        routes += [_own(path, cache.ttl_s, cache) for path in _CHANGING]
        routes += [_own(path, max(cache.ttl_s, _SETTLED_S), cache) for path in _SETTLED]
    return ResourceRoutes(tuple(routes))


def _named(section: RouteSection, cache: CacheSection) -> ResourceRoute:
    policy = Policy(
        ttl_s=section.ttl_s,
        heuristic_fraction=section.heuristic_fraction,
        stale_while_revalidate_s=_first(section.stale_while_revalidate_s, cache.stale_while_revalidate_s),
        stale_if_error_s=_first(section.stale_if_error_s, cache.stale_if_error_s),
    )
    return ResourceRoute(
        section.path, policy, public=section.public, vary=section.vary, transient_ttl_s=cache.transient_ttl_s
    )


def _own(path: str, ttl_s: float, cache: CacheSection) -> ResourceRoute:
    policy = Policy(
        ttl_s=ttl_s,
        stale_while_revalidate_s=cache.stale_while_revalidate_s,
        stale_if_error_s=cache.stale_if_error_s,
    )
    return ResourceRoute(path, policy, transient_ttl_s=cache.transient_ttl_s, json=True)


def _first(*values: float | None) -> float:
    return next(value for value in values if value is not None)
