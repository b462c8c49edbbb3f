"""What a write makes of stored resources (RFC 9111 §4.4)."""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

from proxy.core.cache_key import listing_scope
from proxy.core.messages import Fields, Request
from proxy.core.write_effect import SAFE
from proxy.resources.routes import ResourceRoutes


def changed_resources(request: Request, status: int, fields: Fields, routes: ResourceRoutes) -> list[str]:
    """Return the scopes of the resources that *request* may have changed, answered with *status* and *fields*.

    They are its target, and what `Location` and `Content-Location` name on the same origin. A method that is not known
    to be safe counts as a write. Whoever they are stored for, they are dropped.
    """
    if request.method in SAFE or not 200 <= status < 400:
        return []
    named = [request.target, *(value for name in ("location", "content-location") for value in fields.all(name))]
    host = (request.fields.get("host") or "").lower()
    targets = {target for value in named if (target := _target(request.target, value, host)) is not None}
    return [listing_scope(path, query) for path, query in sorted(targets) if routes.route(path) is not None]


def _target(base: str, reference: str, host: str) -> tuple[str, str] | None:
    """Return path and query of what *reference* names beside *base*, None where that is on another host."""
    try:
        parts = urlsplit(urljoin(base, reference))
    except ValueError:
        return None
    return (parts.path, parts.query) if not parts.netloc or parts.netloc.lower() == host else None
