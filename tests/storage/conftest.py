"""Fixtures of the stores' tests."""

from tests.support.stores import (
    cluster,
    over_cluster,
    over_fakeredis,
    over_redis,
    redis,
    redis_store,
    server,
    store,
    tiered,
)

__all__ = [
    "cluster",
    "over_cluster",
    "over_fakeredis",
    "over_redis",
    "redis",
    "redis_store",
    "server",
    "store",
    "tiered",
]
