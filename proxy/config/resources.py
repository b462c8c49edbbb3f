"""Which resources are answered from the store, put together from the settings of `cache`."""

from __future__ import annotations

from typing import Final

from proxy.config.model import CacheSection, RouteSection
from proxy.http.stored_response import Policy
from proxy.resources.routes import IMAGES, ResourceRoute, ResourceRoutes

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
