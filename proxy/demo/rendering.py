"""Answers as bytes: lists with the links Glance gives them, errors as IMS words them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import urlencode

import orjson

from proxy.demo.catalogue import Page
from proxy.demo.errors import RefusedError
from proxy.demo.image import Image
from proxy.demo.query import Pairs
from proxy.demo.throttle import ThrottlePolicy

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Answer:
    """A response before it meets aiohttp."""

    status: int
    body: bytes = b""
    content_type: str = JSON
    headers: dict[str, str] = field(default_factory=dict)


def json_answer(document: object, *, status: int = 200) -> Answer:
    return Answer(status, orjson.dumps(document))


def first_link(pairs: Pairs) -> str:
    """Return the link of a list's first page, repeated parameters collapsed (see `next_link`)."""
    return _link({name: value for name, value in pairs if name != "marker"})


def next_link(pairs: Pairs, marker: str) -> str:
    """Return the link of the page after *marker*, as lossy as Glance's own.

    It is built from a dict: of a repeated parameter the last value stays, in the place of the first, so following the
    link drops a tag or a sort key. Host-relative, ``marker`` last, a limit beyond the maximum echoed as it was sent.
    """
    return _link({name: value for name, value in pairs if name != "marker"} | {"marker": marker})


def listing(page: Page, pairs: Pairs) -> Answer:
    """Return the answer of ``GET /v2/images``; ``next`` is absent at the end."""
    head: dict[str, object] = {"schema": "/v2/schemas/images", "first": first_link(pairs)}
    if page.next_marker is not None:
        head["next"] = next_link(pairs, page.next_marker)
    return Answer(200, orjson.dumps(head)[:-1] + b',"images":' + _array(page.images) + b"}")


def cloudimages(page: Page) -> Answer:
    """Return the answer of ``GET /v2/cloudimages``: no links, clients page by the last id."""
    return Answer(200, b'{"images":' + _array(page.images) + b"}")


def refusal(error: RefusedError) -> Answer:
    """Return an error as IMS shapes it."""
    return json_answer({"error": {"message": error.message, "code": error.code}}, status=error.status)


def throttled(policy: ThrottlePolicy, *, request_id: str) -> Answer:
    """Return the 429 of the gateway before IMS; it has no Retry-After."""
    document = {"error_msg": policy.message, "error_code": "APIGW.0308", "request_id": request_id}
    return json_answer(document, status=429)


def _link(parameters: dict[str, str]) -> str:
    return f"/v2/images?{urlencode(parameters)}" if parameters else "/v2/images"


def _array(images: Iterable[Image]) -> bytes:
    return b"[" + b",".join(image.rendered for image in images) + b"]"
