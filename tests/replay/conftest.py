"""What the tests of the replay share."""

from tests.support.bounded import bounded

__all__ = ["bounded"]
