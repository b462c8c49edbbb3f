"""Fixtures: a proxy before an upstream that records bytes."""

from tests.support.smuggling import upstream, url

__all__ = ["upstream", "url"]
