"""What an operator may drop, and which listings that touches."""

from __future__ import annotations

import re
from typing import Final

from proxy.core.cache_key import EVERYTHING, listing_scope
from proxy.core.list_api import EXTENSION_PATH, NATIVE_PATH
from proxy.core.list_query import Unclear, parsed
from proxy.core.values import immutable

KINDS: Final = ("all", "project", "image", "listing", "resource", "token_digest")

_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII | re.IGNORECASE)


@immutable
class Purge:
    """Listings to drop: all under any of *scopes*, all that *project* sees, or all that a *token* sees.

    The *token* is given by its SHA-256. *because* says why it is these, where that is not plain.
    """

    scopes: tuple[str, ...] = ()
    because: str | None = None
    project: str | None = None
    token: bytes | None = None


@immutable
class Purged:
    """About how many listings were *dropped*, and why these, where that is not plain."""

    dropped: int
    because: str | None = None


class PurgeError(ValueError):
    """An order that names nothing to purge; the message says what is allowed."""


def purge(order: object) -> Purge:
    """Return what the JSON value *order* drops: `{"all": true}`, `{"project": ID}`, `{"image": ID}`,
    `{"listing": QUERY}`, `{"resource": TARGET}`, or `{"token_digest": SHA256}`, the hash of a token in hex.

    Nothing tells who sees an image, so for that every listing goes. Raises `PurgeError`.
    """
    if not isinstance(order, dict) or len(order) != 1 or next(iter(order)) not in KINDS:
        raise PurgeError(f"purge: one of {', '.join(KINDS)} is allowed")
    kind, value = next(iter(order.items()))
    if kind == "all":
        if value is not True:
            raise PurgeError("purge: all: only true is allowed")
        return Purge((EVERYTHING,))
    if not isinstance(value, str) or not value:
        raise PurgeError(f"purge: {kind}: a text is allowed")
    if kind == "listing":
        return Purge(_listings(value))
    if kind == "resource":
        return Purge((_resource(value),))
    if kind == "token_digest":
        if not _SHA256.fullmatch(value):
            raise PurgeError("purge: token_digest: the SHA-256 of a token in 64 hexadecimal digits is allowed")
        return Purge(token=bytes.fromhex(value))
    if kind == "project":
        return Purge(project=value)
    return Purge((EVERYTHING,), f"the proxy can't tell which listings show {kind} {value}, so all went")


def _listings(text: str) -> tuple[str, ...]:
    """Return the scopes of the listing *text*, a query or a path with one; without a path it is dropped at both."""
    path, _, raw = text.partition("?") if text.startswith("/") else ("", "", text)
    query = parsed(raw)
    if isinstance(query, Unclear):
        raise PurgeError(f"purge: listing: not a list query ({query.reason})")
    paths = (NATIVE_PATH, EXTENSION_PATH) if not path else (path,)
    if not set(paths) <= {NATIVE_PATH, EXTENSION_PATH}:
        raise PurgeError(f"purge: listing: a path is {NATIVE_PATH} or {EXTENSION_PATH}")
    return tuple(listing_scope(each, query.canonical) for each in paths)


def _resource(target: str) -> str:
    """Return the scope of the resource at *target*, path and query as its callers spell them."""
    path, _, query = target.partition("?")
    if not path.startswith("/") or path in (NATIVE_PATH, EXTENSION_PATH):
        raise PurgeError("purge: resource: a path that begins with / is allowed, with its query; a list is a listing")
    return listing_scope(path, query)
