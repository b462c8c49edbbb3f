"""Listings asked for page by page, to the end, as a batch tool asks for them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import orjson
from yarl import URL

from proxy.core.list_api import IMAGES, LIST_APIS
from proxy.core.list_query import UnclearQuery, Window, parse_list_query
from proxy.core.values import immutable
from proxy.listing.rendering import page_link
from proxy.upstream.client import explain_connect_error

_REQUEST_TIMEOUT_S: Final = (
    150.0  # longer than a caller waits in the proxy for a call of the budget, and for it to be answered
)
_MAX_PAUSE_S: Final = 600.0
_MAX_RETRIES: Final = 8
_MAX_PAGES: Final = 100_000
_RETRYABLE_STATUSES: Final = frozenset({429, 503})


class CrawlError(Exception):
    """A listing can't be crawled to its end; the message says why."""


@immutable
class Listing:
    """What is crawled: a *path*, and its canonical *query*."""

    path: str
    query: str

    def __str__(self) -> str:
        return f"{self.path}?{self.query}" if self.query else self.path


@immutable
class CrawledPage:
    """A page that was answered: how many *image_count*, whether it was *is_fetched* for this request, and is
    *is_stored* now.
    """

    image_count: int
    is_fetched: bool
    is_stored: bool


@immutable
class Pause:
    """The proxy can't call at the moment, and says to come back in *wait_s*."""

    wait_s: float


def parse_listing(text: str) -> Listing:
    """Return the listing that *text* names: a query, or a path with one. Raises `CrawlError`."""
    path, _, raw = text.partition("?") if text.startswith("/") else (IMAGES.path, "", text)
    query = parse_list_query(raw)
    if path not in LIST_APIS:
        raise CrawlError(f"{text}: a path is {' or '.join(LIST_APIS)}")
    if isinstance(query, UnclearQuery):
        raise CrawlError(f"{text}: no list query ({query.reason})")
    if query.window != Window():
        raise CrawlError(f"{text}: limit and marker don't belong to a listing, all of it is crawled")
    return Listing(path, query.canonical)


class Crawler:
    """Crawls through the proxy at *url*, with *fields* in each request and *page_size* a page."""

    def __init__(self, session: aiohttp.ClientSession, url: str, *, fields: Mapping[str, str], page_size: int) -> None:
        self._session = session
        self._url = url.rstrip("/")
        self._fields = fields
        self._page_size = page_size

    async def crawl(self, listing: Listing) -> AsyncIterator[CrawledPage | Pause]:
        """Yield the pages of *listing*, and the pauses between them. Raises `CrawlError`."""
        window = Window(self._page_size)
        target: str | None = page_link("", listing.path, listing.query, window)
        seen = set[str]()
        while target is not None:
            if target in seen or len(seen) >= _MAX_PAGES:
                raise CrawlError("the listing does not end: a page leads back to one before it")
            seen.add(target)
            answered: CrawledPage | None = None
            async for step in self._fetch(target, LIST_APIS[listing.path].collection):
                if isinstance(step, Pause):
                    yield step
                else:
                    answered, told = step
                    target = _next_target(told, listing, window)
            assert answered is not None
            yield answered

    async def _fetch(self, target: str, collection: str) -> AsyncIterator[Pause | tuple[CrawledPage, Any]]:
        """Yield what *target* is answered, after the pauses that the proxy asks for."""
        for refusal in range(_MAX_RETRIES + 1):
            try:
                url = URL(self._url + target, encoded=True)
                async with self._session.get(url, headers=self._fields, allow_redirects=False) as answer:
                    status, fields, body = answer.status, answer.headers, await answer.read()
            except TimeoutError as error:
                raise CrawlError(f"{self._url}: no answer within {_REQUEST_TIMEOUT_S:g} s") from error
            except aiohttp.ClientConnectorError as error:
                raise CrawlError(
                    f"{self._url}: {explain_connect_error(error, remedy='give --no-tls-strict')}"
                ) from error
            except aiohttp.ClientError as error:
                raise CrawlError(f"{self._url}: {_describe_error(error)}") from error
            if status == 200:
                yield _parse_page(fields.get("Cache-Status", ""), body, collection)
                return
            if status not in _RETRYABLE_STATUSES or refusal == _MAX_RETRIES:
                raise CrawlError(f"answered {status}{_error_reason(body)}")
            pause = Pause(_retry_after_s(fields.get("Retry-After"), refusal))
            yield pause
            await asyncio.sleep(pause.wait_s)


def make_session(tls_context: ssl.SSLContext) -> aiohttp.ClientSession:
    """Return what a crawler asks with; over TLS it trusts what *tls_context* does."""
    connector = aiohttp.TCPConnector(ssl=tls_context)
    return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=_REQUEST_TIMEOUT_S))


def _parse_page(cache_status: str, body: bytes, collection: str) -> tuple[CrawledPage, Any]:
    """Return the page and what it tells; `Cache-Status` says where it came from (RFC 9211)."""
    try:
        told = orjson.loads(body)
        images = len(told[collection])
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise CrawlError("answered with no list") from error
    words = [word.strip() for word in cache_status.split(";")]
    if words[0] != "ims-proxy":
        raise CrawlError("answered without Cache-Status, is this an ims-proxy?")
    hit = "hit" in words
    return CrawledPage(
        images, not hit and "collapsed" not in words, hit or bool({"stored", "collapsed"} & set(words))
    ), told


def _next_target(content: Any, listing: Listing, window: Window) -> str | None:
    """Return the target of the page after the one that *content* is, None after the last."""
    api = LIST_APIS[listing.path]
    if not api.gives_next:  # clients page by the last id until nothing follows
        items = content[api.collection]
        last = items[-1].get("id") if items else None
        return page_link("", listing.path, listing.query, window, last) if last else None
    link = content.get("next")
    if link is None:
        return None
    try:
        parts = urlsplit(link)
    except (ValueError, AttributeError) as error:
        raise CrawlError("answered with a `next` that is no link") from error
    if not parts.path.endswith(listing.path):
        raise CrawlError("answered with a `next` that leads out of the listing")
    return f"{listing.path}?{parts.query}"  # asked of the proxy itself, whatever host the link names


def _retry_after_s(value: str | None, attempt: int) -> float:
    try:
        return min(_MAX_PAUSE_S, max(0.0, float(value or "")))
    except ValueError:
        return min(_MAX_PAUSE_S, 2.0**attempt)


def _describe_error(error: aiohttp.ClientError) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _error_reason(body: bytes) -> str:
    """Return what an error says, in the shape of the proxy's own or of IMS', made fit for one line."""
    try:
        told = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    inner = told.get("error") if isinstance(told, dict) else None
    said = told.get("error_msg") if isinstance(told, dict) else None
    said = said or (inner.get("message") if isinstance(inner, dict) else None)
    return ": " + " ".join(said.split())[:200] if isinstance(said, str) else ""
