"""What a write makes of stored resources."""

from __future__ import annotations

import pytest

from proxy.core.cache_key import listing_tag
from proxy.core.messages import Fields, Request
from proxy.gateway.invalidation import changed_resource_tags
from proxy.http.stored_response import FreshnessPolicy
from proxy.resources.routes import ResourceRoute, ResourceRoutes

ROUTES = ResourceRoutes((ResourceRoute("/a/**", FreshnessPolicy()),))


def changed(method: str, status: int, *lines: tuple[str, str], target: str = "/a/b?c=d") -> list[str]:
    """Return the scopes that a request changes."""
    request = Request(method, target, Fields([("Host", "ims.example")]), "id")
    return changed_resource_tags(request, status, Fields(lines), ROUTES)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "M-SEARCH"])
@pytest.mark.parametrize(("status", "count"), [(200, 1), (204, 1), (303, 1), (404, 0), (500, 0)])
def test_an_accepted_write_changes_its_target(method: str, status: int, count: int) -> None:
    """An error changes nothing, a redirect may have."""
    assert changed(method, status) == [listing_tag("/a/b", "c=d")] * count


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "TRACE"])
def test_a_safe_method_changes_nothing(method: str) -> None:
    """RFC 9110 §9.2.1."""
    assert changed(method, 200) == []


def test_what_it_names_on_its_own_origin_is_changed_too() -> None:
    """Relative or absolute, and nothing elsewhere, nor what is no resource."""
    scopes = changed(
        "POST",
        201,
        ("Location", "e"),
        ("Content-Location", "http://IMS.example/a/f?g"),
        ("Location", "http://evil.example/a/h"),
        ("Location", "//evil.example/a/i"),
        ("Location", "/other"),
        ("Location", "http://[malformed"),
    )
    expected = [listing_tag("/a/b", "c=d"), listing_tag("/a/e", ""), listing_tag("/a/f", "g")]
    assert sorted(scopes) == sorted(expected)


def test_a_write_elsewhere_changes_no_resource() -> None:
    """Only what can be stored can be dropped."""
    assert changed("POST", 200, target="/v2/images/x") == []
