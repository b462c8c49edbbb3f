"""`ims-proxy warm`: listings are in the store before callers want them."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from proxy.cli.crawler import CrawledPage, Crawler, CrawlError, Listing, make_session, parse_listing
from proxy.cli.options import fail
from proxy.config.tls import make_verifying_context
from proxy.demo.app import ImsLookalike, RecordedCall
from proxy.demo.throttle import ThrottlePolicy
from proxy.runtime.app import run_proxy
from tests.support.certificates import Authority
from tests.support.commands import Started, command
from tests.support.redis import RedisServer
from tests.support.running import ALPHA, Proxy, a_proxy, settings_for

TOKEN_FILE = ("--token-file", "token")


@pytest.fixture(autouse=True)
def _token(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(ALPHA + "\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Listing("/v2/images", "")),
        ("sort_dir=desc&name=a+b", Listing("/v2/images", "name=a%20b")),
        ("/v2/cloudimages?__imagetype=gold", Listing("/v2/cloudimages", "__imagetype=gold")),
    ],
)
def test_a_query_names_a_listing(text: str, expected: Listing) -> None:
    """It is taken in canonical spelling, at the native path unless it names the other one."""
    assert parse_listing(text) == expected


@pytest.mark.parametrize("text", ["limit=5", "marker=x", "a;b", "name", "/v2/other", "/"])
def test_what_names_no_listing_is_refused(text: str) -> None:
    """A window is no part of a listing; neither is what a proxy would pass through."""
    with pytest.raises(CrawlError):
        parse_listing(text)


async def test_what_was_warmed_is_a_hit(proxy: Proxy, upstream: ImsLookalike, tmp_path: Path) -> None:
    """Any window of it, and no call more; what was stored already costs none, unless it is to be fetched anew."""
    words = ("warm", "--proxy", proxy.client.url, *TOKEN_FILE, "visibility=public", "/v2/cloudimages?status=active")
    async with command(*words, at=tmp_path) as started:
        assert await started.ended() == 0, started.errors
        first, second = started.output.decode().splitlines()
    assert first.startswith("/v2/images?visibility=public: 60 images in 1 page, 1 fetched")
    assert second.startswith("/v2/cloudimages?status=active: ")
    calls = len(upstream.calls)
    for target in ("/v2/images?limit=7&visibility=public", "/v2/cloudimages?status=active&limit=3"):
        assert (await proxy.client.ask(target)).hit
    for more, fetched in (((), 0), (("--refresh",), 1)):
        async with command(*words[:-1], *more, at=tmp_path) as started:
            assert await started.ended() == 0, started.errors
        assert len(upstream.calls) == calls + fetched


async def test_a_listing_is_crawled_to_its_end(upstream: ImsLookalike, tmp_path: Path) -> None:
    """Page by page, as long as the upstream gives them."""
    async with a_proxy(upstream.base_url, upstream={"url": upstream.base_url, "max_page": 100}) as proxy:
        seen = len((await proxy.client.ask("/v2/images?limit=100")).ids)
        settings = {"UPSTREAM__MAX_PAGE": "100", "SERVER__LISTEN": proxy.client.url.removeprefix("http://")}
        async with command("warm", *TOKEN_FILE, at=tmp_path, **settings) as started:
            assert await started.ended() == 0, started.errors
            assert b"in 2 pages, 1 fetched" in started.output
        assert seen == 100
        assert len(upstream.calls) == 2


async def test_it_waits_for_the_budget(upstream: ImsLookalike, tmp_path: Path) -> None:
    """Told to come back later it does, and nothing is lost; its calls are of the class that waits behind callers."""
    upstream.throttle = ThrottlePolicy(1, 2)
    async with a_proxy(upstream.base_url, budget={"max_wait_s": 0.1}) as proxy:
        words = ("warm", "--proxy", proxy.client.url, *TOKEN_FILE, "name=a", "name=b")
        async with command(*words, at=tmp_path) as started:
            assert await started.ended() == 0, started.errors
            assert len(started.output.splitlines()) == 2
        assert await proxy.metric('ims_proxy_queue_wait_seconds_count{priority="batch"}') >= 2
        assert await proxy.metric('ims_proxy_queue_wait_seconds_count{priority="interactive"}') == 0


async def test_it_fills_redis_without_a_running_proxy(upstream: ImsLookalike, tmp_path: Path) -> None:
    """A proxy that is started later answers from the store at once. With process memory that is wrong usage."""
    with RedisServer(tmp_path) as redis:
        settings = {"UPSTREAM__URL": upstream.base_url}
        async with command("warm", "--without-proxy", *TOKEN_FILE, at=tmp_path, **settings) as started:
            assert await started.ended() == 2
        settings["STORE__URL"] = redis.url
        async with command("warm", "--without-proxy", *TOKEN_FILE, at=tmp_path, **settings) as started:
            assert await started.ended() == 0, started.errors
        upstream.clear_recorded_calls()
        async with a_proxy(upstream.base_url, store={"url": redis.url}) as proxy:
            assert (await proxy.client.ask("/v2/images?limit=9")).hit
        assert not upstream.calls


@pytest.mark.parametrize(("words", "status"), [((), 1), (("--no-tls-strict",), 0)], ids=["strict", "tolerant"])
async def test_a_certificate_without_key_identifier_is_believed_on_request(
    upstream: ImsLookalike, tmp_path: Path, words: tuple[str, ...], status: int
) -> None:
    """Without that the line names what it lacks, and the option."""
    authority = Authority(tmp_path, key_identifiers=False)
    pair = authority.pair("server", "127.0.0.1")
    server = {"listen": "127.0.0.1:0", "tls_cert": pair.cert, "tls_key": pair.key}
    async with (
        run_proxy(settings_for(upstream.base_url, server=server)) as started,
        command(
            "warm", "--proxy", started.url, *TOKEN_FILE, "--ca-file", str(authority.file), *words, at=tmp_path
        ) as warming,
    ):
        assert await warming.ended() == status, warming.errors
        said = b"Missing Authority Key Identifier (RFC 5280): renew it or its authority's, or give --no-tls-strict"
        assert (said in warming.errors) == (status == 1)


async def test_it_asks_by_tls(upstream: ImsLookalike, tmp_path: Path) -> None:
    """A proxy with a certificate of an authority that the system doesn't know is believed where a file names that."""
    authority = Authority(tmp_path)
    pair = authority.pair("server", "127.0.0.1")
    server = {"listen": "127.0.0.1:0", "tls_cert": pair.cert, "tls_key": pair.key}
    async with run_proxy(settings_for(upstream.base_url, server=server)) as started:
        words = ("warm", "--proxy", started.url, *TOKEN_FILE)
        for more, status in (((), 1), (("--ca-file", str(authority.file)), 0), (("--ca-file", "token"), 1)):
            async with command(*words, *more, at=tmp_path) as warming:
                assert await warming.ended() == status, warming.errors
                assert len(warming.errors.splitlines()) == status
                assert (b"certificate not accepted" in warming.errors) == (status == 1 and not more)
    async with command(
        "warm", "--proxy", upstream.base_url.replace("http:", "https:"), *TOKEN_FILE, at=tmp_path
    ) as plain:
        assert await plain.ended() == 1
        assert b"no TLS connection" in plain.errors


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("--proxy", "http://127.0.0.1:1"), 1, "Connection refused"),
        (("--proxy", "nonsense"), 2, "nonsense"),
        (("--token-file", "nowhere"), 1, "No such file"),
        (("limit=5",), 2, "limit and marker"),
    ],
)
async def test_what_can_t_be_warmed_is_told_in_one_line(
    tmp_path: Path, words: tuple[str, ...], status: int, said: str
) -> None:
    """Each by its reason and with the exit code of its kind."""
    async with command("warm", *words, at=tmp_path) as started:
        assert await started.ended() == status
        (line,) = started.errors.decode().splitlines()
        assert line.startswith("ims-proxy")
        assert said in line


async def test_what_is_not_stored_is_a_failure(proxy: Proxy, upstream: ImsLookalike, tmp_path: Path) -> None:
    """A token that nobody knows, an upstream that gives no list, and a server that is no proxy; no token is told."""

    async def script(_: RecordedCall) -> web.StreamResponse:
        return web.json_response({"error": {"code": "IMG.0001", "message": "not\ntoday\x1b[2J"}}, status=500)

    (tmp_path / "other").write_text("s3cr3t-token-of-nobody")

    async def failing(*words: str) -> Started:
        async with command("warm", *words, at=tmp_path) as started:
            assert await started.ended() == 1
        assert len(started.errors.splitlines()) == 1
        assert b"s3cr3t" not in started.errors
        return started

    through = ("--proxy", proxy.client.url)
    assert b"answered 401" in (await failing(*through, "--token-file", "other")).errors
    assert b"Cache-Status" in (await failing("--proxy", upstream.base_url, *TOKEN_FILE)).errors
    upstream.response_hook = script
    errors = (await failing(*through, *TOKEN_FILE)).errors
    assert b"answered 500: not today" in errors
    assert b"\x1b" not in errors


def answering(*answers: tuple[str, Any]) -> Callable[[RecordedCall], Awaitable[web.StreamResponse]]:
    """Return a script that gives *answers*, each a `Cache-Status` and a body, one after the other."""
    left = list(answers)

    async def script(_: RecordedCall) -> web.StreamResponse:
        cache_status, body = left.pop(0)
        return web.json_response(body, headers={"Cache-Status": f"ims-proxy; {cache_status}"})

    return script


async def crawled(url: str, query: str = "") -> list[CrawledPage]:
    """Return the pages of a crawl."""
    async with make_session(make_verifying_context(None)) as asking:
        crawler = Crawler(asking, url, fields={}, page_size=2)
        return [step async for step in crawler.crawl(parse_listing(query)) if isinstance(step, CrawledPage)]


TWO = [{"id": "a"}, {"id": "b"}]


async def test_a_page_says_where_it_came_from(upstream: ImsLookalike) -> None:
    """Fetched for this request or for another, stored or not; an absolute link leads to the same proxy."""
    link = "https://elsewhere/prefix/v2/images?limit=2&marker="
    upstream.response_hook = answering(
        ("fwd=uri-miss; fwd-status=200; stored", {"images": TWO, "next": link + "b"}),
        ("hit; ttl=5", {"images": TWO, "next": link + "c"}),
        ("fwd=uri-miss; collapsed", {"images": TWO, "next": link + "d"}),
        ("fwd=bypass; detail=no-token", {"images": []}),
    )
    assert await crawled(upstream.base_url) == [
        CrawledPage(2, is_fetched=True, is_stored=True),
        CrawledPage(2, is_fetched=False, is_stored=True),
        CrawledPage(2, is_fetched=False, is_stored=True),
        CrawledPage(0, is_fetched=True, is_stored=False),
    ]
    assert [call.target for call in upstream.calls][1:] == [f"/v2/images?limit=2&marker={at}" for at in "bcd"]


async def test_a_list_without_links_is_paged_by_the_last_id(upstream: ImsLookalike) -> None:
    """Until nothing follows."""
    upstream.response_hook = answering(("hit", {"images": TWO}), ("hit", {"images": []}))
    assert len(await crawled(upstream.base_url, "/v2/cloudimages")) == 2
    assert upstream.calls[-1].target == "/v2/cloudimages?limit=2&marker=b"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        pytest.param({"images": TWO, "next": "/v2/images?limit=2"}, "does not end", id="a page leads back"),
        pytest.param({"images": TWO, "next": "/v2/schemas/images"}, "leads out", id="a link leaves the listing"),
        pytest.param({"images": TWO, "next": 7}, "no link", id="a link is none"),
        pytest.param({"images": 7}, "no list", id="the images are none"),
        pytest.param([], "no list", id="the list is none"),
    ],
)
async def test_a_crawl_that_can_t_end_says_why(upstream: ImsLookalike, body: Any, said: str) -> None:
    """It neither runs in a circle nor follows a link anywhere."""
    upstream.response_hook = answering(("hit", body))
    with pytest.raises(CrawlError, match=said):
        await crawled(upstream.base_url)


async def test_ctrl_c_ends_it(proxy: Proxy, upstream: ImsLookalike, tmp_path: Path) -> None:
    """While a page is still on its way, with 130 and without a traceback."""
    arrived, gate = asyncio.Event(), asyncio.Event()

    async def script(_: RecordedCall) -> None:
        arrived.set()
        await gate.wait()

    upstream.response_hook = script
    async with command("warm", "--proxy", proxy.client.url, *TOKEN_FILE, at=tmp_path) as started:
        async with asyncio.timeout(60):
            await arrived.wait()
        assert await started.ended(by=signal.SIGINT) == 130
        assert not started.errors
    gate.set()


def test_no_order_to_the_terminal_stands_in_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Why a command failed may be told in the words of an upstream."""
    with pytest.raises(SystemExit):
        fail("answered 500: \x1b]0;title\x07 no\r\nmore")
    assert capsys.readouterr().err == "ims-proxy: answered 500: \ufffd]0;title\ufffd no\ufffd\ufffdmore\n"
