"""`Cache-Status` in the words of RFC 9211."""

import pytest

from proxy.core.cache_status import CacheStatus, FwdReason


@pytest.mark.parametrize(
    ("status", "text"),
    [
        pytest.param(CacheStatus(), "ims-proxy; hit", id="a hit"),
        pytest.param(CacheStatus(ttl_s=59.9), "ims-proxy; hit; ttl=59", id="what is left, rounded down"),
        pytest.param(CacheStatus(ttl_s=-0.5), "ims-proxy; hit; ttl=-1", id="stale since less than a second"),
        pytest.param(
            CacheStatus(FwdReason.URI_MISS, 200, 60.0, stored=True),
            "ims-proxy; fwd=uri-miss; fwd-status=200; ttl=60; stored",
        ),
        pytest.param(
            CacheStatus(FwdReason.STALE, 200, 60.0, collapsed=True),
            "ims-proxy; fwd=stale; fwd-status=200; ttl=60; collapsed",
        ),
        pytest.param(
            CacheStatus(FwdReason.BYPASS, 400, detail="semicolon"),
            "ims-proxy; fwd=bypass; fwd-status=400; detail=semicolon",
        ),
    ],
)
def test_the_field_says_what_happened(status: CacheStatus, text: str) -> None:
    """Parameters stand in the order of the RFC, and only those that say something."""
    assert str(status) == text


@pytest.mark.parametrize("fwd", list(FwdReason))
def test_a_forwarded_request_is_labelled_by_its_reason(fwd: FwdReason) -> None:
    """Metrics and logs say the same word as the field."""
    assert CacheStatus(fwd).label == fwd.value
    assert f"fwd={fwd.value}" in str(CacheStatus(fwd))
    assert CacheStatus().label == "hit"
