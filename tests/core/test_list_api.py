"""One image, as its own answer gives it."""

from __future__ import annotations

import pytest

from proxy.core.list_api import is_transient_image


@pytest.mark.parametrize(
    ("body", "changing"),
    [
        (b'{"status":"active"}', False),
        (b'{"status":"killed"}', False),
        (b'{"status":"queued"}', True),
        (b'{"status":"saving"}', True),
        (b'{"status":"importing"}', True),
        (b'{"status":"uploading"}', True),
        (b'{"status":"pending_delete"}', True),
        (b'{"status":null}', True),
        (b'{"status":["active"]}', True),
        (b"{}", True),
        (b"[]", True),
        (b"<html>", True),
    ],
)
def test_an_image_that_is_about_to_change_is_told(body: bytes, changing: bool) -> None:
    """And what is no image may be anything, so it is not held either."""
    assert is_transient_image(body) is changing
