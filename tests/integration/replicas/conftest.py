"""Fixtures: a trace of crawls, the look-alike and a Redis."""

from tests.support.fleet import every_image, lookalike, redis, trace

__all__ = ["every_image", "lookalike", "redis", "trace"]
