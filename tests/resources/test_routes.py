"""Which paths name resources."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.http.stored_response import FreshnessPolicy
from proxy.resources.routes import IMAGES, ResourceRoute, ResourceRoutes

EVERYTHING = ResourceRoutes((ResourceRoute("/**", FreshnessPolicy(1.0)),))


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("/v2/schemas/*", "/v2/schemas/image", True),
        ("/v2/schemas/*", "/v2/schemas/", False),
        ("/v2/schemas/*", "/v2/schemas/a/b", False),
        ("/v2/schemas/*", "/x/v2/schemas/a", False),
        ("/v1/*/jobs/*", "/v1/p/jobs/j", True),
        ("/test/**", "/test/a/b", True),
        ("/test/**", "/tested", False),
        ("/a.c/*x", "/a.c/yx", True),
        ("/a.c/*x", "/abc/yx", False),
    ],
)
def test_stars_stand_for_segments(pattern: str, path: str, matches: bool) -> None:
    """One star for one segment or a part of it, two for any number; all else stands for itself."""
    routes = ResourceRoutes((ResourceRoute(pattern, FreshnessPolicy()),))
    assert (routes.find(path) is not None) is matches


def plainly(pattern: str) -> re.Pattern[str]:
    """Return what *pattern* means, spelt so that it may go back over a path any number of times."""
    meanings = {"*": "[^/]+", "**": ".*"}
    return re.compile("".join(meanings.get(part) or re.escape(part) for part in re.split(r"(\*\*|\*)", pattern)))


@given(st.text("/ab*", max_size=12), st.text("/ab", max_size=12))
@settings(max_examples=300)
def test_a_pattern_that_never_goes_back_finds_the_same(pattern: str, path: str) -> None:
    """Whatever stars it has, wherever they stand."""
    assert bool(ResourceRoute(pattern, FreshnessPolicy()).pattern.fullmatch(path)) == bool(
        plainly(pattern).fullmatch(path)
    )


@pytest.mark.parametrize(
    "path",
    [
        "/v2/images",
        "/v2/cloudimages",
        "/v2/images/abc/file",
        "/v2/schemas/..%2fimages",
        "/v2/schemas/../images",
        "/v2/schemas/.",
        "/v2/schemas/..",
        "/v2//images",
        "/v2/images;x",
        "/v2/%69mages",
        "/v2\\images",
    ],
)
def test_no_pattern_reaches_lists_data_or_odd_paths(path: str) -> None:
    """What another server may read otherwise than it is spelt is never stored."""
    assert EVERYTHING.find(path) is None
    assert EVERYTHING.find("/v2/images/abc") is not None


def test_the_first_route_counts() -> None:
    """A route that is named before others stands in their place."""
    first, second = ResourceRoute("/v2/images/a", FreshnessPolicy(1.0)), ResourceRoute(IMAGES, FreshnessPolicy(2.0))
    routes = ResourceRoutes((first, second))
    assert [routes.find(path) for path in ("/v2/images/a", "/v2/images/b")] == [first, second]
    assert [first.depends_on_images, second.depends_on_images] == [False, True]
