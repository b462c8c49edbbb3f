"""Answers as they were received, for the tests of what may be done with them."""

from __future__ import annotations

from proxy.core.messages import Fields
from proxy.http.stored_response import FreshnessPolicy, StoredResponse, freshness_lifetime_s

NOW = 1_767_225_600.0  # Thu, 01 Jan 2026 00:00:00 GMT
AT_NOW = ("Date", "Thu, 01 Jan 2026 00:00:00 GMT")


def an_answer(
    *lines: tuple[str, str], status: int = 200, body: bytes = b"0123456789", policy: FreshnessPolicy | None = None
) -> StoredResponse:
    """Return an answer with the field *lines*, received at `NOW` within no time."""
    fields = Fields(lines)
    lifetime_s = freshness_lifetime_s(status, fields, policy or FreshnessPolicy(), response_time=NOW)
    return StoredResponse(status, None, fields, body, NOW, NOW, lifetime_s or 0.0)
