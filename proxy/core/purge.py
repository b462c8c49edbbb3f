"""What an operator may drop, and which listings that touches."""

from __future__ import annotations

import re
from typing import Final

from proxy.core.cache_key import ALL_TAG, listing_tag
from proxy.core.list_api import LIST_APIS
from proxy.core.list_query import UnclearQuery, parse_list_query
from proxy.core.values import immutable

PURGE_KINDS: Final = ("all", "project", "image", "listing", "resource", "token_digest")

_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII | re.IGNORECASE)


@immutable
class PurgeOrder:
    """Listings to drop: all under any of *tags*, all that *project* sees, or all that a *token_hash* sees.

    The *token_hash* is given by its SHA-256. *reason* says why it is these, where that is not plain.
    """

    tags: tuple[str, ...] = ()
    reason: str | None = None
    project: str | None = None
    token_hash: bytes | None = None


@immutable
class PurgeResult:
    """About how many listings were *dropped*, and why these, where that is not plain."""

    dropped: int
    reason: str | None = None


class PurgeError(ValueError):
    """An order that names nothing to purge; the message says what is allowed."""


def parse_purge(order: object) -> PurgeOrder:
    """Return what the JSON value *order* drops: `{"all": true}`, `{"project": ID}`, `{"image": ID}`,
    `{"listing": QUERY}`, `{"resource": TARGET}`, or `{"token_digest": SHA256}`, the hash of a token in hex.

    Nothing tells who sees an image, so for that every listing goes. Raises `PurgeError`.
    """
    if not isinstance(order, dict) or len(order) != 1 or next(iter(order)) not in PURGE_KINDS:
        raise PurgeError(f"purge: one of {', '.join(PURGE_KINDS)} is allowed")
    kind, value = next(iter(order.items()))
    if kind == "all":
        if value is not True:
            raise PurgeError("purge: all: only true is allowed")
        return PurgeOrder((ALL_TAG,))
    if not isinstance(value, str) or not value:
        raise PurgeError(f"purge: {kind}: a text is allowed")
    if kind == "listing":
        return PurgeOrder(_listing_tags(value))
    if kind == "resource":
        return PurgeOrder((_resource_tag(value),))
    if kind == "token_digest":
        if not _SHA256.fullmatch(value):
            raise PurgeError("purge: token_digest: the SHA-256 of a token in 64 hexadecimal digits is allowed")
        return PurgeOrder(token_hash=bytes.fromhex(value))
    if kind == "project":
        return PurgeOrder(project=value)
    return PurgeOrder((ALL_TAG,), f"the proxy can't tell which listings show {kind} {value}, so all went")


def _listing_tags(text: str) -> tuple[str, ...]:
    """Return the scopes of the listing *text*, a query or a path with one; without a path it is dropped at both."""
    path, _, raw = text.partition("?") if text.startswith("/") else ("", "", text)
    query = parse_list_query(raw)
    if isinstance(query, UnclearQuery):
        raise PurgeError(f"purge: listing: not a list query ({query.reason})")
    paths = (path,) if path else tuple(LIST_APIS)
    if not LIST_APIS.keys() >= set(paths):
        raise PurgeError(f"purge: listing: a path is {' or '.join(LIST_APIS)}")
    return tuple(listing_tag(each, query.canonical) for each in paths)


def _resource_tag(target: str) -> str:
    """Return the scope of the resource at *target*, path and query as its callers spell them."""
    path, _, query = target.partition("?")
    if not path.startswith("/") or path in LIST_APIS:
        raise PurgeError("purge: resource: a path that begins with / is allowed, with its query; a list is a listing")
    return listing_tag(path, query)
