"""Interim answers of the upstream (RFC 9110 §15.2)."""

from __future__ import annotations

from tests.support.origin import Origin, a_caller
from tests.support.running import a_proxy
from tests.support.waiting import until

GET = b"GET /v2/tasks HTTP/1.%d\r\nHost: x\r\n\r\n"
HINTS = (
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n"
    b"Keep-Alive: timeout=5\r\nConnection: X-Own\r\nX-Own: 1\r\n\r\n"
)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def test_it_reaches_the_caller_before_the_answer_does(origin: Origin, url: str) -> None:
    """At once, as it came but for fields that end at a proxy; then the answer comes, with none of those fields."""
    async with a_caller(url) as caller:
        caller.send(GET % 1)
        upstream = await origin.end()
        await upstream.head()
        upstream.send(HINTS)
        assert await caller.head() == b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n"
        upstream.send(b"HTTP/1.1 102 Processing\r\n\r\n" + OK)
        assert await caller.head() == b"HTTP/1.1 102 Processing\r\n\r\n"
        head = await caller.head()
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"\r\nlink:" not in head.lower()
        assert await caller.exactly(2) == b"ok"


async def test_a_caller_of_http_1_0_hears_nothing_of_it(origin: Origin, url: str) -> None:
    """It would take it for the answer."""
    async with a_caller(url) as caller:
        caller.send(GET % 0)
        upstream = await origin.end()
        await upstream.head()
        upstream.send(HINTS + OK)
        assert (await caller.head()).startswith(b"HTTP/1.0 200 ")


async def test_an_upstream_that_sends_nothing_else_is_given_up(origin: Origin, url: str) -> None:
    """It would hold its caller for ever, and does so for neither of the tries."""
    async with a_caller(url) as caller:
        caller.send(b"POST" + GET[3:] % 1)
        upstream = await origin.end()
        await upstream.head()
        upstream.send(HINTS * 40)
        for _ in range(32):
            assert (await caller.head()).startswith(b"HTTP/1.1 103 ")
        assert (await caller.head()).startswith(b"HTTP/1.1 502 ")


RESOURCE = b"GET /v2/schemas/image HTTP/1.1\r\nHost: x\r\nX-Auth-Token: made-up\r\n\r\n"


def whole(body: bytes) -> bytes:
    """Return a whole answer that may be kept."""
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


async def test_it_reaches_who_began_a_fetch_and_nobody_else(origin: Origin) -> None:
    """Those who wait for the same resource get the answer alone, and nothing of the others is stored with it."""
    async with a_proxy(origin.url) as proxy, a_caller(proxy.client.url) as first, a_caller(proxy.client.url) as second:
        first.send(RESOURCE)
        upstream = await origin.end()
        await upstream.head()
        upstream.send(HINTS)
        assert await first.head() == b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n"

        async def follows() -> bool:
            return await proxy.metric("ims_proxy_collapsed_requests_total") == 1

        second.send(RESOURCE)
        await until(follows)
        upstream.send(HINTS + whole(b'{"name": "image"}'))
        assert (await first.head()).startswith(b"HTTP/1.1 103 ")
        for caller, how in ((first, b"; stored"), (second, b"; collapsed"), (second, b"; hit")):
            if how == b"; hit":
                second.send(RESOURCE)
            head = await caller.head()
            assert head.startswith(b"HTTP/1.1 200 ")
            assert how in head
            assert b"\r\nlink:" not in head.lower()
            await caller.exactly(17)


async def test_it_reaches_nobody_where_nobody_waits(origin: Origin) -> None:
    """A stale answer was given before its resource was fetched anew: what comes of that has no place behind it."""
    routes = [{"path": "/v2/schemas/*", "ttl_s": 0.001, "stale_while_revalidate_s": 60}]
    async with a_proxy(origin.url, cache={"routes": routes}) as proxy, a_caller(proxy.client.url) as caller:
        caller.send(RESOURCE)
        upstream = await origin.end()
        await upstream.head()
        upstream.send(whole(b"{}"))
        assert b"; stored" in await caller.head()
        await caller.exactly(2)
        caller.send(RESOURCE)
        assert b"stale-while-revalidate" in await caller.head()
        await caller.exactly(2)
        await upstream.head()
        upstream.send(HINTS + whole(b"[]"))

        async def told() -> bool:
            return await proxy.metric('ims_proxy_upstream_calls_total{purpose="revalidate"') == 1

        await until(told)
        caller.send(RESOURCE)
        assert (await caller.head()).startswith(b"HTTP/1.1 200 ")
        assert await caller.exactly(2) == b"[]"


async def test_a_list_brings_none(origin: Origin, url: str) -> None:
    """What goes up is not what its caller sent, and a page may take several calls."""
    async with a_caller(url) as caller:
        caller.send(b"GET /v2/images?limit=1 HTTP/1.1\r\nHost: x\r\nX-Auth-Token: made-up\r\n\r\n")
        upstream = await origin.end()
        await upstream.head()
        upstream.send(HINTS + whole(b'{"images": []}'))
        head = await caller.head()
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"; stored" in head
