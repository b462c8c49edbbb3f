"""One image, as `GET /v2/images/{id}` gives it."""

from __future__ import annotations

import orjson

from proxy.core.list_api import TRANSIENT_STATUSES


def about_to_change(body: bytes) -> bool:
    """Whether the image in *body* is about to change, or nothing can be said of it because it is no image."""
    try:
        status = orjson.loads(body)["status"]
    except (orjson.JSONDecodeError, TypeError, KeyError):
        return True
    return not isinstance(status, str) or status in TRANSIENT_STATUSES
