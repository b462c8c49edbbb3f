"""Lifetimes by rule."""

import pytest

from proxy.core.freshness import Lifetimes
from proxy.listing.request import LifetimeRule, LifetimeRules

USUAL, GOLD, EXTENSION = Lifetimes(60.0), Lifetimes(3600.0, stale_if_error_s=60.0), Lifetimes(5.0)
RULES = LifetimeRules(
    USUAL,
    [
        LifetimeRule(GOLD, pairs=(("__imagetype", "gold"), ("visibility", "public"))),
        LifetimeRule(EXTENSION, path="/v2/cloudimages"),
        LifetimeRule(USUAL, path="/v2/cloudimages", pairs=(("name", "n"),)),
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
    assert RULES.for_listing(path, pairs) is expected


def test_the_longest_use_of_any_span_is_known() -> None:
    """Stale windows included."""
    assert RULES.max_useful_s == 3660.0
    assert LifetimeRules(USUAL).max_useful_s == 60.0
