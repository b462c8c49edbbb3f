"""Renders answers: lists with the links Glance gives them, errors as IMS words them, and the small documents beside the
images (versions, schemas, quota, operating systems).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from urllib.parse import urlencode

import orjson

from proxy.demo.catalogue import Page
from proxy.demo.image import Image
from proxy.demo.query import ImsError, Pairs
from proxy.demo.throttle import ThrottlePolicy

JSON_CONTENT_TYPE = "application/json"


@dataclass(frozen=True, slots=True)
class ApiResponse:
    """A response before it meets aiohttp."""

    status: int
    body: bytes = b""
    content_type: str = JSON_CONTENT_TYPE
    headers: dict[str, str] = field(default_factory=dict)


def json_response(document: object, *, status: int = 200) -> ApiResponse:
    return ApiResponse(status, orjson.dumps(document))


def build_first_link(pairs: Pairs) -> str:
    """Return the link of a list's first page, repeated parameters collapsed (see `build_next_link`)."""
    return _build_link({name: value for name, value in pairs if name != "marker"})


def build_next_link(pairs: Pairs, marker: str) -> str:
    """Return the link of the page after *marker*, as lossy as Glance's own.

    It is built from a dict: of a repeated parameter the last value stays, in the place of the first, so following the
    link drops a tag or a sort key. Host-relative, ``marker`` last, a limit beyond the maximum echoed as it was sent.
    """
    return _build_link({name: value for name, value in pairs if name != "marker"} | {"marker": marker})


def render_list(page: Page, pairs: Pairs) -> ApiResponse:
    """Return the answer of ``GET /v2/images``; ``next`` is absent at the end."""
    head: dict[str, object] = {"schema": "/v2/schemas/images", "first": build_first_link(pairs)}
    if page.next_marker is not None:
        head["next"] = build_next_link(pairs, page.next_marker)
    return ApiResponse(200, orjson.dumps(head)[:-1] + b',"images":' + _render_images(page.images) + b"}")


def render_cloudimages(page: Page) -> ApiResponse:
    """Return the answer of ``GET /v2/cloudimages``: no links, clients page by the last id."""
    return ApiResponse(200, b'{"images":' + _render_images(page.images) + b"}")


def render_error(error: ImsError) -> ApiResponse:
    """Return an error as IMS shapes it."""
    return json_response({"error": {"message": error.message, "code": error.code}}, status=error.status)


def render_throttled(policy: ThrottlePolicy, *, request_id: str) -> ApiResponse:
    """Return the 429 of the gateway before IMS; it has no Retry-After."""
    document = {"error_msg": policy.message, "error_code": "APIGW.0308", "request_id": request_id}
    return json_response(document, status=429)


def _build_link(parameters: dict[str, str]) -> str:
    return f"/v2/images?{urlencode(parameters)}" if parameters else "/v2/images"


def _render_images(images: Iterable[Image]) -> bytes:
    return b"[" + b",".join(image.json_bytes for image in images) + b"]"


API_VERSIONS = (("v2.7", "SUPPORTED"), ("v2.6", "SUPPORTED"), ("v2.0", "SUPPORTED"))
IMAGE_QUOTA = 100

_STRING = {"type": "string"}
_NULLABLE_STRING = {"type": ["null", "string"]}
_INTEGER = {"type": "integer"}

IMAGE_PROPERTIES: Mapping[str, Mapping[str, object]] = {
    "id": _STRING,
    "name": _NULLABLE_STRING,
    "status": {"type": "string", "enum": ["queued", "saving", "active", "killed", "deleted"], "readOnly": True},
    "visibility": {"type": "string", "enum": ["public", "private", "shared", "community"]},
    "owner": _NULLABLE_STRING,
    "protected": {"type": "boolean"},
    "container_format": _NULLABLE_STRING,
    "disk_format": _NULLABLE_STRING,
    "size": {"type": ["null", "integer"], "readOnly": True},
    "min_ram": _INTEGER,
    "min_disk": _INTEGER,
    "tags": {"type": "array", "items": {"type": "string", "maxLength": 255}},
    "created_at": {"type": "string", "readOnly": True},
    "updated_at": {"type": "string", "readOnly": True},
}
MEMBER_PROPERTIES: Mapping[str, Mapping[str, object]] = {
    "image_id": _STRING,
    "member_id": _STRING,
    "status": {"type": "string", "enum": ["pending", "accepted", "rejected"]},
    "created_at": _STRING,
    "updated_at": _STRING,
    "schema": {"type": "string", "readOnly": True},
}


def versions_document(host: str) -> dict[str, object]:
    """Return the API versions: the one document whose links are absolute, and name the *host* that was asked."""
    return {
        "versions": [
            {"id": version, "status": status, "links": [{"rel": "self", "href": f"http://{host}/v2/"}]}
            for version, status in API_VERSIONS
        ]
    }


def schema_document(name: str) -> dict[str, object] | None:
    """Return the JSON schema *name*, or None for one that does not exist."""
    match name:
        case "image":
            return {"name": name, "properties": IMAGE_PROPERTIES, "additionalProperties": _STRING}
        case "member":
            return {"name": name, "properties": MEMBER_PROPERTIES}
        case "images" | "members":
            item = schema_document(name.removesuffix("s"))
            links = [{"rel": "first", "href": "{first}"}, {"rel": "next", "href": "{next}"}]
            return {"name": name, "properties": {name: {"type": "array", "items": item}}, "links": links}
        case _:
            return None


def os_versions_document(images: Iterable[Image]) -> list[dict[str, object]]:
    """Return the operating systems that *images* hold, grouped by platform: a top-level array."""
    systems = sorted({tuple(image.get_text(f"__{name}") or "" for name in _OS_ATTRIBUTES) for image in images})
    return [
        {
            "platform": platform,
            "version_list": [
                {"platform": platform, "os_version_key": version, "os_version": version, "os_bit": bit, "os_type": kind}
                for _, version, bit, kind in group
            ],
        }
        for platform, group in groupby(systems, key=lambda system: system[0])
        if platform
    ]


def quota_document(used: int) -> dict[str, object]:
    """Return how many images a project has, and may have."""
    return {"quotas": {"resources": [{"type": "image", "used": used, "quota": IMAGE_QUOTA, "min": 0, "max": 10_000}]}}


_OS_ATTRIBUTES = ("platform", "os_version", "os_bit", "os_type")
