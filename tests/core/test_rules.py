"""Lifetimes by rule."""

import pytest

from proxy.core.freshness import Lifetimes
from proxy.listing.request import Rule, Rules

USUAL, GOLD, EXTENSION = Lifetimes(60.0), Lifetimes(3600.0, stale_if_error_s=60.0), Lifetimes(5.0)
RULES = Rules(
    USUAL,
    [
        Rule(GOLD, pairs=(("__imagetype", "gold"), ("visibility", "public"))),
        Rule(EXTENSION, path="/v2/cloudimages"),
        Rule(USUAL, path="/v2/cloudimages", pairs=(("name", "n"),)),
    ],
)


@pytest.mark.parametrize(
    ("path", "pairs", "expected"),
    [
        ("/v2/images", (), USUAL),
        ("/v2/images", (("__imagetype", "gold"),), USUAL),
        ("/v2/images", (("__imagetype", "gold"), ("visibility", "public")), GOLD),
        ("/v2/images", (("__imagetype", "gold"), ("name", "n"), ("visibility", "public")), GOLD),
        ("/v2/cloudimages", (("__imagetype", "gold"), ("visibility", "public")), GOLD),
        ("/v2/cloudimages", (("name", "n"),), EXTENSION),
    ],
)
def test_the_first_rule_that_matches_counts(path: str, pairs: tuple[tuple[str, str], ...], expected: Lifetimes) -> None:
    """A rule matches where its path, if it has one, and all of its parameters do."""
    assert RULES.lifetimes(path, pairs) is expected


def test_the_longest_use_of_any_span_is_known() -> None:
    """Stale windows included."""
    assert RULES.longest_s == 3660.0
    assert Rules(USUAL).longest_s == 60.0
