"""Decisions of RFC 9111."""
