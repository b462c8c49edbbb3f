"""Fixtures: the look-alike with private images, Keystone's look-alike and a Redis."""

from tests.support.security import iam, redis, redis_server, upstream

__all__ = ["iam", "redis", "redis_server", "upstream"]
