"""Which writes change lists."""

import pytest

from proxy.core.write_effect import Touch, touch


@pytest.mark.parametrize(
    ("method", "path", "status", "expected"),
    [
        ("POST", "/v2/images", 201, Touch.CHANGES),
        ("PATCH", "/v2/images/a", 200, Touch.CHANGES),
        ("DELETE", "/v2/images/a", 204, Touch.CHANGES),
        ("PUT", "/v2/images/a/file", 204, Touch.CHANGES),
        ("PUT", "/v2/images/a/tags/t", 204, Touch.CHANGES),
        ("POST", "/v2/images/a/members", 200, Touch.CHANGES),
        ("DELETE", "/v2.7/images/a", 204, Touch.CHANGES),
        ("DELETE", "//v2//images/a", 204, Touch.CHANGES),
        ("DELETE", "/v2/%69mages/a", 204, Touch.CHANGES),
        ("POST", "/v2/images/a/import", 202, Touch.BEGINS),
        ("POST", "/v2/cloudimages/action", 200, Touch.BEGINS),
        ("PATCH", "/v2/cloudimages/a", 200, Touch.BEGINS),
        ("POST", "/v1/cloudimages/wholeimages/action", 200, Touch.BEGINS),
        ("GET", "/v2/images/a", 200, Touch.NOTHING),
        ("HEAD", "/v2/images", 200, Touch.NOTHING),
        ("OPTIONS", "/v2/images", 200, Touch.NOTHING),
        ("DELETE", "/v2/images/a", 404, Touch.NOTHING),
        ("DELETE", "/v2/images/a", 403, Touch.NOTHING),
        ("POST", "/v2/images", 500, Touch.NOTHING),
        ("POST", "/v2/images", 307, Touch.NOTHING),
        ("POST", "/v3/auth/tokens", 201, Touch.NOTHING),
        ("DELETE", "/v2/schemas/image", 204, Touch.NOTHING),
    ],
)
def test_an_accepted_write_touches_lists(method: str, path: str, status: int, expected: Touch) -> None:
    """Only a write that the upstream accepted counts, and a job changes lists once more when it ends."""
    assert touch(method, path, status) is expected
