"""Fixtures: a whole proxy before the look-alike."""

from tests.support.running import client, direct, origin, proxy, upstream, url

__all__ = ["client", "direct", "origin", "proxy", "upstream", "url"]
