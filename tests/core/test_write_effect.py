"""Which writes change lists."""

import pytest

from proxy.core.write_effect import WriteEffect, write_effect


@pytest.mark.parametrize(
    ("method", "path", "status", "expected"),
    [
        ("POST", "/v2/images", 201, WriteEffect.CHANGED),
        ("PATCH", "/v2/images/a", 200, WriteEffect.CHANGED),
        ("DELETE", "/v2/images/a", 204, WriteEffect.CHANGED),
        ("PUT", "/v2/images/a/file", 204, WriteEffect.CHANGED),
        ("PUT", "/v2/images/a/tags/t", 204, WriteEffect.CHANGED),
        ("POST", "/v2/images/a/members", 200, WriteEffect.CHANGED),
        ("DELETE", "/v2.7/images/a", 204, WriteEffect.CHANGED),
        ("DELETE", "//v2//images/a", 204, WriteEffect.CHANGED),
        ("DELETE", "/v2/%69mages/a", 204, WriteEffect.CHANGED),
        ("POST", "/v2/images/a/import", 202, WriteEffect.JOB_STARTED),
        ("POST", "/v2/cloudimages/action", 200, WriteEffect.JOB_STARTED),
        ("PATCH", "/v2/cloudimages/a", 200, WriteEffect.JOB_STARTED),
        ("POST", "/v1/cloudimages/wholeimages/action", 200, WriteEffect.JOB_STARTED),
        ("GET", "/v2/images/a", 200, WriteEffect.NOTHING),
        ("HEAD", "/v2/images", 200, WriteEffect.NOTHING),
        ("OPTIONS", "/v2/images", 200, WriteEffect.NOTHING),
        ("DELETE", "/v2/images/a", 404, WriteEffect.NOTHING),
        ("DELETE", "/v2/images/a", 403, WriteEffect.NOTHING),
        ("POST", "/v2/images", 500, WriteEffect.NOTHING),
        ("POST", "/v2/images", 307, WriteEffect.NOTHING),
        ("POST", "/v3/auth/tokens", 201, WriteEffect.NOTHING),
        ("DELETE", "/v2/schemas/image", 204, WriteEffect.NOTHING),
    ],
)
def test_an_accepted_write_touches_lists(method: str, path: str, status: int, expected: WriteEffect) -> None:
    """Only a write that the upstream accepted counts, and a job changes lists once more when it ends."""
    assert write_effect(method, path, status) is expected
