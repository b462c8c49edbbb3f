"""What sets the list APIs apart: their paths, and the statuses of images that are about to change.

One image, as `GET /v2/images/{id}` gives it.
"""

from __future__ import annotations

from typing import Final

import orjson

IMAGES_PATH: Final = "/v2/images"
CLOUDIMAGES_PATH: Final = "/v2/cloudimages"

# An image in one of these is about to change (IMS API reference, "Image Attributes"; Glance image statuses).
TRANSIENT_STATUSES: Final = ("queued", "saving", "importing", "uploading", "pending_delete")


def is_transient_image(body: bytes) -> bool:
    """Whether the image in *body* is about to change, or nothing can be said of it because it is no image."""
    try:
        status = orjson.loads(body)["status"]
    except (orjson.JSONDecodeError, TypeError, KeyError):
        return True
    return not isinstance(status, str) or status in TRANSIENT_STATUSES
