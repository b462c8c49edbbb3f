"""Renders a page: the images' own bytes, with `first`, `next` and `schema` written around them.

The three kinds of link. They are made when a page is served; nothing of the caller's host is ever stored.

- relative: host-relative, starting with the API's own path. Right for every known client: python-glanceclient joins by
  string, openstacksdk and gophercloud resolve it.
- absolute on a configured public URL.
- absolute on what a trusted proxy's `Forwarded` or `X-Forwarded-*` fields say.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Final, TypeAlias
from urllib.parse import quote

import orjson

from proxy.core.cache_key import CacheKey
from proxy.core.list_api import CLOUDIMAGES_PATH
from proxy.core.list_query import Window
from proxy.core.messages import Fields
from proxy.core.span import Page, PagePart
from proxy.core.values import immutable
from proxy.http.validation import is_host

_PREFIX: Final = re.compile(r"(?:/[A-Za-z0-9._~-]+)+", re.ASCII)
# Begins nowhere but at a name, and goes back nowhere: a caller may send 64 KiB that match nothing.
_FORWARDED_PAIR: Final = re.compile(r'(?<![A-Za-z])([A-Za-z]++)=(?:"([^"\\]*+)"|([^\s;,"]*+))', re.ASCII)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@immutable
class LinkStyle:
    """How links are written: *public_url* is the base of absolute ones; without it *trusted_proxies* proxies may name
    it.
    """

    absolute: bool = False
    public_url: str = ""
    trusted_proxies: tuple[Network, ...] = ()

    def base_for(self, fields: Fields, peer: str | None) -> str:
        """Return what stands before the API's path in a link to this caller: `""` for a relative link."""
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
    """Return the base that a trusted proxy states (RFC 7239 §4, else `X-Forwarded-*`), `""` where it makes no sense.

    Of a list the last element counts: it is the one the trusted peer wrote.
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

    `limit` stands in it only if the caller sent one, as the number that was sent.
    """
    parts = [query] if query else []
    if window.limit is not None:
        parts.append(f"limit={window.limit}")
    if marker is not None:
        parts.append(f"marker={quote(marker, safe='')}")
    return f"{base}{path}?{'&'.join(parts)}" if parts else f"{base}{path}"


ByteRange: TypeAlias = tuple[int, int]  # from its first byte to behind its last


_END: Final = b"]}"


def render_page(page: Page, key: CacheKey, window: Window, base: str) -> bytes:
    """Return the body of *page*; see `render_opening` for *base*."""
    return join_page(
        render_opening(page, key, window, base), [(part.span.body, byte_range(part)) for part in page.parts]
    )


def join_page(opening: bytes, runs: Sequence[tuple[bytes, ByteRange]]) -> bytes:
    """Return the body that is *opening* so and goes on with *runs* of images: where each stands in the bytes it is of.

    They are taken from where they are: whoever joins them copies them, once.
    """
    parts = [memoryview(held)[start:stop] for held, (start, stop) in runs if start < stop]
    images = parts[0] if len(parts) == 1 else b",".join(parts)
    return b"".join((opening, images, _END))


def byte_range(part: PagePart) -> ByteRange:
    """Return where the images of *part* stand in the body of its span."""
    return (0, 0) if part.start == part.stop else (part.span.starts[part.start], part.span.ends[part.stop - 1])


def render_opening(page: Page, key: CacheKey, window: Window, base: str) -> bytes:
    """Return what stands before the images of *page*; *base* stands before the path in its links.

    `/v2/cloudimages` has no links: its callers page by the last id they saw.
    """
    if key.path == CLOUDIMAGES_PATH:
        return b'{"images":['
    head = {"schema": f"{base}/v2/schemas/images", "first": page_link(base, key.path, key.query, window)}
    if page.next_marker is not None:
        head["next"] = page_link(base, key.path, key.query, window, page.next_marker)
    return orjson.dumps(head)[:-1] + b',"images":['
