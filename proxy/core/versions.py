"""The version documents at `/` and `/versions`: the one answer of the API whose links name the upstream's host."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import orjson


def homeward(body: bytes, base: str) -> bytes:
    """Return the version document *body* with each link on *base*, scheme and authority of the proxy as callers see it.

    A body that is no JSON, or has no absolute links, comes back as it is.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body
    return orjson.dumps(_rebased(document, base)) if b'"href"' in body else body


def _rebased(value: Any, base: str) -> Any:
    if isinstance(value, list):
        return [_rebased(item, base) for item in value]
    if isinstance(value, dict):
        return {
            name: _on_base(item, base) if name == "href" and isinstance(item, str) else _rebased(item, base)
            for name, item in value.items()
        }
    return value


def _on_base(link: str, base: str) -> str:
    try:
        parts = urlsplit(link)
    except ValueError:
        return base + "/"
    if not parts.scheme and not parts.netloc:
        return link
    query = f"?{parts.query}" if parts.query else ""
    return f"{base}{parts.path or '/'}{query}"
