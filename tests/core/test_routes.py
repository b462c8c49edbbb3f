"""Which kind of request a path is, spelt exactly or not at all."""

from collections.abc import AsyncIterator

import pytest

from proxy.core.messages import Fields, Request
from proxy.core.routes import Route, bypass_reason, classify_path


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/v2/images", Route.LIST),
        ("/v2/cloudimages", Route.CLOUDIMAGES_LIST),
        ("/", Route.VERSIONS),
        ("/versions", Route.VERSIONS),
        ("/versions/", Route.VERSIONS),
        ("/v2/images/b0f1", Route.IMAGE),
        ("/v2.7/images/b0f1", Route.IMAGE),
        ("/v2/images/b0f1/file", Route.IMAGE_DATA),
        ("/v2/images/b0f1/members", Route.OTHER),
        ("/v2/images/", Route.OTHER),
        ("/v2/images;x", Route.OTHER),
        ("/v2/images.css", Route.OTHER),
        ("//v2/images", Route.OTHER),
        ("/v2//images", Route.OTHER),
        ("/v2/%69mages", Route.OTHER),
        ("/v2/images%2F", Route.OTHER),
        ("/v2.7/images", Route.OTHER),
        ("/V2/images", Route.OTHER),
        ("/v2/schemas/../images", Route.OTHER),
        ("/v2/images\n", Route.OTHER),
        ("", Route.OTHER),
        ("*", Route.OTHER),
    ],
)
def test_only_the_api_s_own_spelling_is_a_list(path: str, kind: Route) -> None:
    """A path that Glance would understand but that is spelt otherwise goes through as it came."""
    assert classify_path(path) is kind


async def _no_bytes() -> AsyncIterator[bytes]:
    return
    yield b""


@pytest.mark.parametrize(
    ("fields", "body", "reason"),
    [
        ([], False, None),
        ([("If-None-Match", '"x"')], False, None),
        ([("If-Modified-Since", "now")], False, None),
        ([], True, "body"),
        ([("If-Match", '"x"')], False, "precondition"),
        ([("If-Unmodified-Since", "now")], False, "precondition"),
    ],
)
def test_a_list_request_with_a_body_or_precondition_is_not_answered_here(
    fields: list[tuple[str, str]], reason: str | None, *, body: bool
) -> None:
    """Whatever the query, these go through."""
    request = Request("GET", "/v2/images", Fields(fields), "id", _no_bytes() if body else None)
    assert bypass_reason(request) == reason
