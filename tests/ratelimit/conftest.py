"""Fixtures of the rate limiter's tests."""

from tests.support.rate_limit_stores import cluster, make_ledger, server

__all__ = ["cluster", "make_ledger", "server"]
