"""What the tests of the replay share."""

from tests.bounded import bounded

__all__ = ["bounded"]
