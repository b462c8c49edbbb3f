"""What sets the list APIs apart: their paths, and the statuses of images that are about to change."""

from __future__ import annotations

from typing import Final

NATIVE_PATH: Final = "/v2/images"
EXTENSION_PATH: Final = "/v2/cloudimages"

# An image in one of these is about to change (IMS API reference, "Image Attributes"; Glance image statuses).
TRANSIENT_STATUSES: Final = ("queued", "saving", "importing", "uploading", "pending_delete")
