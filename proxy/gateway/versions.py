"""The version documents at `/` and `/versions`: the one answer of the API whose links name the upstream's host."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import orjson


def homeward(body: bytes, base: str) -> bytes:
    """Return the version document *body* with each link on *base*, scheme and authority of the proxy as callers see it.

    A body that is no JSON, or has no link that leads elsewhere, comes back as it is.
    """
    try:
        document = orjson.loads(body)
        rebased = _rebased(document, base)
    except (orjson.JSONDecodeError, RecursionError):
        return body
    return body if rebased == document else orjson.dumps(rebased)


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
    """Return *link* on *base*: its path and query, or the root where it has no path of an origin."""
    try:
        parts = urlsplit(link)
    except ValueError:
        return base + "/"
    if "\\" in link or (parts.path and not parts.path.startswith("/") and parts.scheme):
        return base + "/"
    if not parts.scheme and not parts.netloc:
        return link
    query = f"?{parts.query}" if parts.query else ""
    return f"{base}{parts.path or '/'}{query}"
