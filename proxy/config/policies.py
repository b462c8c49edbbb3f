"""Makes the list rules, lifetimes and resource routes from the settings of `cache` and `upstream`."""

from __future__ import annotations

from typing import Final

from proxy.config.model import CacheSection, RouteSection, Settings
from proxy.core import list_api
from proxy.core.freshness import Lifetimes
from proxy.core.list_api import CLOUDIMAGES
from proxy.core.list_query import UnclearQuery, parse_list_query
from proxy.core.partition import Partitioner
from proxy.http.stored_response import FreshnessPolicy
from proxy.listing.request import LifetimeRule, LifetimeRules, ListRules, PageSizes
from proxy.resources.routes import IMAGES, ResourceRoute, ResourceRoutes


def make_list_rules(settings: Settings, partition_secret: bytes) -> ListRules:
    """Return how lists are asked for; *partition_secret* is the key of the partitions' digests."""
    upstream = settings.upstream
    return ListRules(
        Partitioner(partition_secret),
        page_sizes(settings),
        make_lifetime_rules(settings.cache),
        use_cloudimages=upstream.list_api == "cloudimages",
        share_public=settings.identity.share_public,
    )


def page_sizes(settings: Settings) -> PageSizes:
    upstream = settings.upstream
    defaults = {list_api.IMAGES.path: upstream.default_page, CLOUDIMAGES.path: upstream.default_page_cloudimages}
    return PageSizes(upstream.max_page, defaults)


def make_lifetime_rules(cache: CacheSection) -> LifetimeRules:
    """Return the lifetimes by rule; what a rule does not name is as for all lists."""
    names = ("ttl_s", "transient_ttl_s", "stale_while_revalidate_s", "stale_if_error_s")
    each: list[LifetimeRule] = []
    for section in cache.rules:
        query = parse_list_query(section.query)
        assert not isinstance(query, UnclearQuery)
        own = {name: value for name in names if (value := getattr(section, name)) is not None}
        each.append(
            LifetimeRule(Lifetimes(**{name: getattr(cache, name) for name in names} | own), section.path, query.pairs)
        )
    return LifetimeRules(Lifetimes(*(getattr(cache, name) for name in names)), tuple(each))


# What the cloud's operator changes, not its users: the forms of images, and the systems that images may have.
_FINAL_TTL_S: Final = 3600.0
_FINAL_PATHS: Final = ("/v2/schemas/*", "/v1/cloudimages/os_version")
_CHANGING_PATHS: Final = (IMAGES, "/v1/cloudimages/quota")


def make_resource_routes(cache: CacheSection) -> ResourceRoutes:
    """Return the routes: those that *cache* names, and behind them what the image API has; none with no lifetime."""
    routes = [_to_route(section, cache) for section in cache.routes]
    if cache.ttl_s > 0:
        routes += [_default_route(path, cache.ttl_s, cache) for path in _CHANGING_PATHS]
        routes += [_default_route(path, max(cache.ttl_s, _FINAL_TTL_S), cache) for path in _FINAL_PATHS]
    return ResourceRoutes(tuple(routes))


def _to_route(section: RouteSection, cache: CacheSection) -> ResourceRoute:
    policy = FreshnessPolicy(
        ttl_s=section.ttl_s,
        heuristic_fraction=section.heuristic_fraction,
        stale_while_revalidate_s=_first_given(section.stale_while_revalidate_s, cache.stale_while_revalidate_s),
        stale_if_error_s=_first_given(section.stale_if_error_s, cache.stale_if_error_s),
    )
    return ResourceRoute(
        section.path,
        policy,
        is_public=section.public,
        by_vary=section.honor_vary,
        transient_ttl_s=cache.transient_ttl_s,
    )


def _default_route(path: str, ttl_s: float, cache: CacheSection) -> ResourceRoute:
    policy = FreshnessPolicy(
        ttl_s=ttl_s,
        stale_while_revalidate_s=cache.stale_while_revalidate_s,
        stale_if_error_s=cache.stale_if_error_s,
    )
    return ResourceRoute(path, policy, transient_ttl_s=cache.transient_ttl_s, requires_json=True)


def _first_given(*values: float | None) -> float:
    return next(value for value in values if value is not None)
