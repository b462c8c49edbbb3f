"""How lists are asked for and how long they live, from the settings."""

from __future__ import annotations

from proxy.config.model import CacheSection, Settings
from proxy.core.freshness import Lifetimes
from proxy.core.list_query import Unclear, parsed
from proxy.core.partition import Partitioner
from proxy.listing.request import Asking, PageSizes
from proxy.listing.rules import Rule, Rules


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
