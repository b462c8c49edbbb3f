"""The status page, as a real browser shows it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack

import orjson
import pytest

from proxy.demo.app import ImsLookalike
from tests.support.browser import Browser, Tab, a_browser
from tests.support.running import Proxy, a_client, a_proxy

pytestmark = pytest.mark.xdist_group("browser")  # all in one process: one browser will do

LIST = "/v2/images?limit=5"
TOKEN = "an admin's s3cr3t"
SHOWN = "!document.getElementById('figures').hidden"
# Elements that reach beyond the card they stand in, but for what is made to be scrolled.
OVERFLOWING = """
[...document.querySelectorAll("section *:not(.scroll *)")].filter((each) =>
  each.getBoundingClientRect().right > each.closest("section").getBoundingClientRect().right + 0.5
).map((each) => each.outerHTML)
"""


# Everything at once: large figures, and all that can be the matter.
CROWDED = """
asked("stats").then((answer) => answer.json()).then((stats) => {
  clearTimeout(timer);
  Object.assign(stats.requests, { total: 1234567890, hits: 1034567890, hit_ratio: 0.99995, collapsed: 1234567 });
  stats.requests.duration = { hit: { p50_s: 0.999, p99_s: 0.9994 }, forwarded: { p50_s: 29.9, p99_s: 129.9 } };
  stats.requests.by_route["image-data"] = Object.fromEntries(
    ["hit", "bypass", "method", "uri-miss", "miss", "request", "stale", "partial", "error"].map((each) => [each, 1e9]));
  Object.assign(stats.upstream, { calls: 123456789, saved: 1034567890, retried: 1234567, throttled: 1234567 });
  Object.assign(stats.upstream.by_purpose, { "marker_recovery": 1234567, prefetch: 12345678 });
  const most = { calls: 1000000, per_s: 86400 };
  Object.assign(stats.budget, { limit: most, used: 999999, low: 12345, cooldowns: 1, cooldown_s: 86399 });
  Object.assign(stats.budget, { queued: 9999, rejected: 1234567, advertised_limits: { user: most } });
  stats.budget.without_store = { mode: "hold", share: "1/256", no_calls_for_s: 86399 };
  stats.budget.background_skipped = { prefetch: 1234567 };
  stats.circuit_breaker = { open: true, retry_in_s: 29.9, rejected: 1234567 };
  stats.event_loop = { lag_s: 129.9 };
  stats.concurrency = { limit: 10000, in_flight: 10000 };
  Object.assign(stats.store, { bytes: 274877906900, max_bytes: 274877906944, listings: 1234567, spans: 12345678 });
  Object.assign(stats.store, { replicas: 1000, errors: { shared_secret: 1234567 } });
  stats.store.parts = { memory: "ok", redis: "failed when it was asked last" };
  stats.store.parts.invalidation_bus = "down, what other replicas change is not heard";
  stats.processes = 256;
  show(stats);
})
"""

# Shown and looked at in one go: what the page hears of the proxy a moment later would take its place.
HOSTILE = """
((hostile) => {
  showRoutes({ [hostile]: { [hostile]: 7 } });
  pills("store-pills", [[hostile, "good"]]);
  pairs("purposes", [[hostile, "7"]]);
  const images = document.querySelectorAll("main img").length;
  return { images, routes: document.querySelector("#routes").innerText };
})(%s)
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser for all tests here."""
    with a_browser(tmp_path_factory.mktemp("browser")) as running:
        yield running


async def figures(tab: Tab) -> dict[str, str]:
    """Return the figures that the page shows, by their ids."""
    await tab.holds(SHOWN)
    found = "Object.fromEntries([...document.querySelectorAll('.figure')].map((each) => [each.id, each.innerText]))"
    shown: dict[str, str] = await tab.value(found)
    return shown


async def test_the_page_shows_what_the_proxy_saves(browser: Browser, proxy: Proxy) -> None:
    """Calls saved, hit ratio, calls made, and the budget: the figures of `/stats`; the console complains of nothing."""
    for _ in range(10):
        await proxy.client.ask(LIST)
    async with browser.tab(proxy.admin.url) as tab:
        shown = await figures(tab)
        assert shown["saved"].split() == ["9", "90", "%"]
        assert shown["hit-ratio"] == "90 %"
        assert shown["calls"].split()[0] == "1"
        assert shown["budget"] == "no limit known"
        assert "event loop lag" in await tab.text("#latency-pills")
        assert await tab.text("#state") == "live"
        assert "list" in await tab.text("#routes")
        assert tab.errors == []


async def test_the_page_follows_what_happens(browser: Browser, proxy: Proxy) -> None:
    """What is asked while it is open shows up without a reload."""
    async with browser.tab(proxy.admin.url) as tab:
        assert (await figures(tab))["calls"].split()[0] == "0"
        await proxy.client.ask(LIST)
        await tab.holds("document.getElementById('calls').innerText.startsWith('1')")
        assert await tab.text("#calls") == "1 call"


@pytest.mark.parametrize(
    ("width", "theme"), [(1200, "light"), (1000, "dark"), (700, "dark"), (360, "light"), (320, "dark")]
)
async def test_the_page_fits_and_follows_the_theme(browser: Browser, proxy: Proxy, width: int, theme: str) -> None:
    """Nothing sticks out of its card or the window, on a phone neither; dark means light text on a dark ground."""
    await proxy.client.ask(LIST)
    async with browser.tab(proxy.admin.url, width=width, theme=theme) as tab:
        await figures(tab)
        assert await tab.value("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
        assert await tab.value(OVERFLOWING) == []
        await tab.value(CROWDED)
        assert await tab.value("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
        assert await tab.value(OVERFLOWING) == []
        colours = await tab.value(
            "['color', 'backgroundColor'].map((name) => getComputedStyle(document.body)[name].match(/[0-9]+/)[0])"
        )
        ink, ground = map(int, colours)
        assert (ink < ground) == (theme == "light")
        assert len(await tab.screenshot()) > 5_000


async def test_the_page_asks_for_the_token_and_keeps_it_in_memory(browser: Browser, upstream: ImsLookalike) -> None:
    """A wrong one is refused; the right one shows the figures, is stored nowhere, and is asked for after a reload."""
    async with (
        a_proxy(upstream.base_url, admin={"listen": "127.0.0.1:0", "token": TOKEN}) as proxy,
        browser.tab(proxy.admin.url) as tab,
    ):
        asked_for = "!document.getElementById('login').hidden"
        await tab.holds(asked_for)
        assert not await tab.value(SHOWN)
        for given, outcome in (("another", "!document.getElementById('login-error').hidden"), (TOKEN, SHOWN)):
            await tab.value(f'document.getElementById("token").value = "{given}"')
            await tab.value("document.querySelector('#login button').click()")
            await tab.holds(outcome)
        assert await tab.value("document.getElementById('token').value") == ""
        assert await tab.value("document.cookie + localStorage.length + sessionStorage.length") == "00"
        assert TOKEN not in await tab.value("location.href + document.documentElement.outerHTML")
        await tab.do("Page.reload")
        await tab.holds(asked_for)


async def test_a_request_is_explained_on_the_page(browser: Browser, proxy: Proxy) -> None:
    """As `/explain` does; a target that is none is told so, and what was typed is never taken for markup."""
    async with browser.tab(proxy.admin.url, width=360) as tab:
        await figures(tab)

        async def explained(target: str, expected: str) -> str:
            typed, awaited = (orjson.dumps(text).decode() for text in (target, expected))
            await tab.value(f"document.getElementById('target').value = {typed}")
            await tab.value("document.querySelector('#explain button').click()")
            await tab.holds(f"document.getElementById('explanation').innerText.includes({awaited})")
            return await tab.text("#explanation")

        said = await explained("/v2/images?sort_dir=desc&limit=3&name=<b>x", "name=%3Cb%3Ex")
        assert "sort_dir=desc is the default of the query" in said
        assert await tab.value("document.querySelectorAll('#explanation b').length") == 0
        assert "explain: target" in await explained("nonsense", "explain: target")
        assert await tab.value("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
        assert await tab.value(OVERFLOWING) == []
        (refused,) = tab.errors
        assert "400" in refused


async def test_what_is_told_is_never_taken_for_markup(browser: Browser, proxy: Proxy) -> None:
    """Names that look like elements are shown as they are written."""
    async with browser.tab(proxy.admin.url) as tab:
        await figures(tab)
        hostile = '<img src=x onerror="document.title=1">'
        shown = await tab.value(HOSTILE % orjson.dumps(hostile).decode())
        assert shown["images"] == 0
        assert "<img src=x" in shown["routes"]


async def test_the_page_says_when_the_proxy_is_gone(browser: Browser, upstream: ImsLookalike) -> None:
    """The figures stay, and beside them stands that they are no longer live."""
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(a_proxy(upstream.base_url))
        async with browser.tab(proxy.admin.url) as tab:
            await figures(tab)
            await stack.aclose()
            await tab.holds("document.getElementById('state').innerText.includes('not reached')")
            assert await tab.value(SHOWN)


async def test_a_page_of_another_origin_can_neither_read_nor_purge(browser: Browser, proxy: Proxy) -> None:
    """What a browser lets such a page send changes nothing, and is not shown to it."""
    await proxy.client.ask(LIST)
    sent = """
    Promise.all([["application/json", "cors"], ["text/plain", "no-cors"], ["", "no-cors"]].map(([type, mode]) =>
      fetch("%s/purge", { method: "POST", mode, body: new Blob(['{"all": true}'], { type }) })
        .then((answer) => answer.type, (error) => error.name)))
    """
    async with a_client(proxy.client.url), browser.tab(f"{proxy.client.url}/versions") as tab:
        assert await tab.value(sent % proxy.admin.url) == ["TypeError", "opaque", "opaque"]
        read = f"fetch('{proxy.admin.url}/stats').then(() => 'read', (error) => error.name)"
        assert await tab.value(read) == "TypeError"
    assert (await proxy.client.ask(LIST)).hit
