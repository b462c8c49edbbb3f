"""Fixtures: a listing service before a reference listing."""

from tests.support.listings import make_world, world

__all__ = ["make_world", "world"]
