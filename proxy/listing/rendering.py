"""Renders a page: the images' own bytes, with `first`, `next` and `schema` around them.

Links are made when a page is served, so nothing of a caller's host is ever stored. They are relative (host-relative,
starting with the API's own path, which every known client understands: python-glanceclient joins strings, openstacksdk
and gophercloud resolve), absolute on a configured public URL, or absolute on what a trusted proxy's `Forwarded` or
`X-Forwarded-*` fields say.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final, TypeAlias
from urllib.parse import quote

import orjson

from proxy.core.cache_key import CacheKey
from proxy.core.list_api import LIST_APIS
from proxy.core.list_query import Window
from proxy.core.messages import Fields
from proxy.core.span import Page, PagePart
from proxy.core.values import immutable
from proxy.http.validation import is_host

_PREFIX: Final = re.compile(r"(?:/[A-Za-z0-9._~-]+)+", re.ASCII)
# Anchored at a name and possessive: a caller may send 64 KiB that match nothing.
_FORWARDED_PAIR: Final = re.compile(r'(?<![A-Za-z])([A-Za-z]++)=(?:"([^"\\]*+)"|([^\s;,"]*+))', re.ASCII)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@immutable
class LinkStyle:
    """*public_url* is the base of absolute links; without it *trusted_proxies* may name the base."""

    absolute: bool = False
    public_url: str = ""
    trusted_proxies: tuple[Network, ...] = ()

    def base_for(self, fields: Fields, peer: str | None) -> str:
        """Return what stands before the API's path in this caller's links, `""` for relative ones."""
        if not self.absolute:
            return ""
        if self.public_url:
            return self.public_url.rstrip("/")
        return _forwarded_base(fields) if self._trusts(peer) else ""

    def _trusts(self, peer: str | None) -> bool:
        try:
            address = ipaddress.ip_address(peer or "")
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        return any(address in network for network in self.trusted_proxies)


def _forwarded_base(fields: Fields) -> str:
    """Return the base that a trusted proxy states (RFC 7239 §4, else `X-Forwarded-*`), `""` if it makes no sense.

    The last element of a list counts: the trusted peer wrote it.
    """
    if forwarded := fields.get_all("forwarded"):
        element = forwarded[-1].rpartition(",")[2]
        said = {name.lower(): quoted or plain for name, quoted, plain in _FORWARDED_PAIR.findall(element)}
        scheme, host, prefix = said.get("proto", ""), said.get("host", ""), ""
    else:
        scheme, host, prefix = (_last_element(fields, f"x-forwarded-{name}") for name in ("proto", "host", "prefix"))
    if scheme.lower() not in ("http", "https") or not is_host(host):
        return ""
    prefix = prefix.rstrip("/")
    if prefix and not _PREFIX.fullmatch(prefix):
        return ""
    return f"{scheme.lower()}://{host.lower()}{prefix}"


def _last_element(fields: Fields, name: str) -> str:
    values = fields.get_all(name)
    return values[-1].rpartition(",")[2].strip() if values else ""


def page_link(base: str, path: str, query: str, window: Window, marker: str | None = None) -> str:
    """Return the link to a page: the caller's own parameters in canonical spelling, `marker` last.

    It has a `limit` only if the caller sent one, as the number that was sent.
    """
    parts = [query] if query else []
    if window.limit is not None:
        parts.append(f"limit={window.limit}")
    if marker is not None:
        parts.append(f"marker={quote(marker, safe='')}")
    return f"{base}{path}?{'&'.join(parts)}" if parts else f"{base}{path}"


ByteRange: TypeAlias = tuple[int, int]  # from the first byte to behind the last


def render_page(page: Page, key: CacheKey, window: Window, base: str) -> bytes:
    """Return the body of *page*; *base* stands before the path in its links."""
    api = LIST_APIS[key.path]
    opening = b'{"%b":[' % api.collection.encode()
    if api.gives_next:
        head = {"schema": f"{base}{api.schema}"} if api.schema else {}
        head["first"] = page_link(base, key.path, key.query, window)
        if page.next_marker is not None:
            head["next"] = page_link(base, key.path, key.query, window, page.next_marker)
        opening = orjson.dumps(head)[:-1] + b"," + opening[1:]
    # Views, so that the images' bytes are copied once.
    parts = [memoryview(part.span.body)[slice(*byte_range(part))] for part in page.parts if part.start < part.stop]
    images = parts[0] if len(parts) == 1 else b",".join(parts)
    return b"".join((opening, images, b"]}"))


def byte_range(part: PagePart) -> ByteRange:
    """Return where the images of *part* stand in the body of its span."""
    return (0, 0) if part.start == part.stop else (part.span.starts[part.start], part.span.ends[part.stop - 1])
