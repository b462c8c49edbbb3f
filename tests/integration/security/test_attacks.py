"""What the API facts list of attacks on caching proxies that rewrite links, case by case, over raw sockets.

Every case runs on a cold store and on a warm one. The witness is the look-alike's own record of what reached it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

import orjson
import pytest
from aiohttp import web
from redis.asyncio import Redis

from proxy.demo.app import ImsLookalike, RecordedCall
from tests.support.redis import RedisServer
from tests.support.running import Proxy, a_proxy
from tests.support.security import private_to

ALPHA, BETA = "demo-token-alpha", "demo-token-beta"
EVIL = "evil.example"


@dataclass(frozen=True, slots=True)
class Raw:
    """An answer off the wire."""

    status: int
    head: str
    body: bytes

    @property
    def hit(self) -> bool:
        """Whether it came from the store."""
        return "Cache-Status: ims-proxy; hit" in self.head


@pytest.fixture
async def proxy(upstream: ImsLookalike, redis_server: RedisServer, redis: Redis) -> AsyncIterator[Proxy]:
    """A proxy over a real Redis, whose values can be looked into."""
    store = {"url": redis_server.url}
    async with a_proxy(upstream.base_url, store=store) as started:
        yield started


async def send(
    proxy: Proxy,
    target: str,
    *lines: str,
    token: str | None = ALPHA,
    method: str = "GET",
    body: bytes = b"",
    host: str | None = "",
) -> Raw:
    """Send one request as it is written here, on a connection of its own."""
    authority = urlsplit(proxy.client.url).netloc
    head = [f"{method} {target} HTTP/1.1", *([] if host is None else [f"Host: {host or authority}"]), *lines]
    head += [f"X-Auth-Token: {token}"] if token else []
    raw = await proxy.client.raw("\r\n".join([*head, "Connection: close", "", ""]).encode("latin-1") + body)
    top, _, rest = raw.partition(b"\r\n\r\n")
    return Raw(int(top.split(b" ")[1]), top.decode("latin-1"), rest)


async def everything(redis: Redis) -> bytes:
    """Return every key and value in Redis, one after the other."""
    found = []
    async for key in redis.scan_iter():
        kind = await redis.type(key)
        found.append(key)
        if kind == b"string":
            found.append(await redis.get(key) or b"")
        elif kind == b"hash":
            found += [each for pair in (await redis.hgetall(key)).items() for each in pair]
        elif kind == b"zset":
            found += await redis.zrange(key, 0, -1)
    return b"\0".join(found)


LIST = "/v2/images?limit=10"

UNKEYED = [
    f"X-Forwarded-Host: {EVIL}",
    "X-Forwarded-Proto: javascript",
    "X-Forwarded-Port: 666",
    f"X-Forwarded-Prefix: /{EVIL}",
    f"Forwarded: host={EVIL};proto=https",
    f"X-Host: {EVIL}",
    f"X-Original-URL: /{EVIL}",
    f"X-Rewrite-URL: /{EVIL}",
    "X-HTTP-Method-Override: DELETE",
    "X-Original-Host: evil.example",
    "X-Project-Id: be7a0000000000000000000000000002",
    "X-Roles: admin",
    "Range: bytes=0-3",
    "Connection: X-Auth-Token",
]


@pytest.mark.parametrize("line", UNKEYED, ids=[line.split(":")[0] for line in UNKEYED])
async def test_1_an_unkeyed_header_changes_nothing(
    proxy: Proxy, upstream: ImsLookalike, redis: Redis, line: str
) -> None:
    """Unkeyed headers: neither forwarded, nor reflected, nor stored, and the poisoned request feeds the same entry."""
    poisoned = await send(proxy, LIST, line)
    sent = str(dict(upstream.calls[0].headers)).lower()
    assert EVIL not in sent
    assert line.partition(":")[0].lower() not in {name.lower() for name in upstream.calls[0].headers} - {"connection"}
    clean = await send(proxy, LIST)
    assert clean.hit
    assert clean.body == poisoned.body
    assert EVIL.encode() not in clean.body + await everything(redis)


@pytest.mark.parametrize(
    ("target", "host", "lines"),
    [
        pytest.param(f"http://{EVIL}{LIST}", "", (), id="an absolute target"),
        pytest.param(f"//{EVIL}{LIST}", "", (), id="an authority in the path"),
        pytest.param(LIST, EVIL, (), id="another host"),
        pytest.param(LIST, f"{EVIL}:99999", (), id="an odd port"),
        pytest.param(LIST, "EVIL.Example", (), id="mixed case"),
        pytest.param(LIST, "", (f"Host: {EVIL}",), id="two hosts"),
    ],
)
async def test_2_where_a_request_claims_to_go_is_not_believed(
    proxy: Proxy, upstream: ImsLookalike, redis: Redis, target: str, host: str, lines: Iterable[str]
) -> None:
    """Absolute targets and hosts: no link leads there, nothing of it is stored, and nothing is asked elsewhere."""
    answer = await send(proxy, target, *lines, host=host)
    assert EVIL.encode() not in answer.body.lower()
    assert EVIL.encode() not in (await everything(redis)).lower()
    assert all(EVIL not in call.headers["Host"].lower() for call in upstream.calls)
    clean = await send(proxy, LIST)
    assert clean.status == 200
    assert EVIL.encode() not in clean.body


INJECTIONS = [
    "name=a%26visibility%3Dprivate",
    "name=a%3Fb",
    "name=a%0d%0aX-Auth-Token:%20demo-token-beta",
    "name=a%00b",
    "name=a%2fb",
    "tag=a&tag=b%26tag=c",
    "tag=a%3Db",
    "owner=x%7C%7C1",
    "name=1:a&tag=2:b",
    "name=%7B%7D:s:",
]


@pytest.mark.parametrize("query", INJECTIONS)
async def test_3_a_delimiter_in_a_value_makes_no_other_key(proxy: Proxy, upstream: ImsLookalike, query: str) -> None:
    """Key injection: a value stays a value, on its way up and in the key."""
    await send(proxy, "/v2/images?limit=10&visibility=private&name=a")
    upstream.clear_recorded_calls()
    answer = await send(proxy, f"/v2/images?limit=10&{query}")
    assert not answer.hit
    (call,) = upstream.calls
    assert call.headers["X-Auth-Token"] == ALPHA
    assert "\r" not in call.target
    decoded_names = {pair.partition("=")[0] for pair in call.target.partition("?")[2].split("&")}
    assert "visibility" not in decoded_names


CLOAKS = [
    ("limit=1;marker=x", "limit=1"),
    ("limit=1&limit=10", "limit=10"),
    ("limit=10&marker=a&marker=b", "limit=10"),
    ("owner=a&owner=b&limit=10", "owner=a&limit=10"),
    ("tag=a=b&limit=10", "tag=a&limit=10"),
    ("name=&limit=10", "limit=10"),
    ("%5F%5Fimagetype=gold&limit=10", "limit=10"),
    ("name=a%2Bb&limit=10", "name=a+b&limit=10"),
    ("NAME=a&limit=10", "name=a&limit=10"),
]


@pytest.mark.parametrize(("cloaked", "plain"), CLOAKS)
async def test_4_a_cloaked_parameter_is_not_taken_for_a_plain_one(
    proxy: Proxy, upstream: ImsLookalike, cloaked: str, plain: str
) -> None:
    """Parameter cloaking: what the upstream reads otherwise has another key, or none."""
    await send(proxy, f"/v2/images?{plain}")
    truth = await send(proxy, f"/v2/images?{cloaked}", "Cache-Control: no-store")
    answer = await send(proxy, f"/v2/images?{cloaked}")
    assert answer.status == truth.status
    if answer.status == 200:
        shown, true = (orjson.loads(each.body)["images"] for each in (answer, truth))
        assert shown == true


@pytest.mark.parametrize(
    ("method", "lines", "body"),
    [
        pytest.param("GET", ("Content-Length: 7",), b"limit=1", id="GET with a body"),
        pytest.param(
            "GET", ("Transfer-Encoding: chunked",), b"7\r\nlimit=1\r\n0\r\n\r\n", id="GET with a chunked body"
        ),
        pytest.param("OPTIONS", (), b"", id="OPTIONS"),
        pytest.param("POST", ("X-HTTP-Method-Override: GET", "Content-Length: 2"), b"{}", id="an override"),
        pytest.param("PROPFIND", (), b"", id="a method nobody knows"),
    ],
)
async def test_5_a_method_or_body_does_not_poison_the_list(
    proxy: Proxy, upstream: ImsLookalike, method: str, lines: tuple[str, ...], body: bytes
) -> None:
    """Fat GETs, overrides and other methods: nothing of their answers is stored."""
    await send(proxy, LIST, *lines, method=method, body=body)
    clean = await send(proxy, LIST)
    assert clean.status == 200
    assert not clean.hit
    assert len(orjson.loads(clean.body)["images"]) == 10


async def test_5_a_head_shares_with_its_get(proxy: Proxy, upstream: ImsLookalike) -> None:
    """HEAD, then GET: one fetch, made as a GET, and the body is whole."""
    head = await send(proxy, LIST, method="HEAD")
    got = await send(proxy, LIST)
    assert head.body == b""
    assert got.hit
    assert len(orjson.loads(got.body)["images"]) == 10
    assert [call.method for call in upstream.calls] == ["GET"]


PATHS = [
    "/v2/images.css",
    "/v2/images;x",
    "/v2/images/..%2f",
    "/v2/images/",
    "//v2/images",
    "/v2//images",
    "/v2/%69mages",
    "/v2/images%3f",
    "/v2/IMAGES",
    "/x/../v2/images",
    "/v2/images/.",
    "/v2/images%00",
]


@pytest.mark.parametrize("path", PATHS)
async def test_6_a_path_trick_is_passed_on_and_never_stored(
    proxy: Proxy, upstream: ImsLookalike, redis: Redis, path: str
) -> None:
    """Path tricks: only the one spelling is answered from the store, any other goes up byte for byte."""
    for _ in range(2):
        answer = await send(proxy, f"{path}?limit=10")
        assert not answer.hit
    assert [call.target for call in upstream.calls] == [f"{path}?limit=10"] * 2
    assert b"IMS3" not in await everything(redis)


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(f"X-Big: {'x' * 70_000}", id="an oversized header"),
        pytest.param("X-Bad: a\x01b", id="a control character"),
        pytest.param("X-Bad\x01: b", id="a control character in a name"),
        pytest.param(f"X-Api-Version: {'Q' * 70_000}", id="an oversized variant"),
    ],
)
async def test_7_a_header_that_breaks_parsers_poisons_nothing(proxy: Proxy, upstream: ImsLookalike, line: str) -> None:
    """Cache-poisoned denial of service: the error goes to who sent it, quotes nothing; the next caller is served."""
    broken = await send(proxy, LIST, line)
    assert broken.status in (200, 400, 431)
    assert b"xxxx" not in broken.body
    assert ALPHA.encode() not in broken.body if broken.status == 400 else True
    clean = await send(proxy, LIST)
    assert clean.status == 200
    assert len(orjson.loads(clean.body)["images"]) == 10


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 500, 502, 503])
async def test_7_an_error_is_never_stored_as_the_list(
    proxy: Proxy, upstream: ImsLookalike, redis: Redis, status: int
) -> None:
    """Whatever error one caller provokes, another project's caller gets its list."""

    async def fail(call: RecordedCall) -> web.StreamResponse | None:
        return web.json_response({"images": [], "error": "provoked"}, status=status)

    upstream.response_hook = fail
    assert (await send(proxy, LIST)).status == status
    upstream.response_hook = None
    assert (await send(proxy, LIST, token=BETA)).status == 200
    assert b"provoked" not in await everything(redis)


@pytest.mark.parametrize(
    ("token", "lines"),
    [
        pytest.param(BETA, (), id="another project's token"),
        pytest.param("demo-token-alpha-reader", (), id="one project, other roles"),
        pytest.param(BETA, ("X-Project-Id: a1fa0000000000000000000000000001",), id="a forged project"),
        pytest.param(ALPHA, (f"X-Auth-Token: {BETA}",), id="two tokens"),
        pytest.param(ALPHA, ("Authorization: Bearer x",), id="a token and an Authorization"),
        pytest.param(
            None,
            (f"Authorization: SDK-HMAC-SHA256 Access={ALPHA}, SignedHeaders=host, Signature={'0' * 64}",),
            id="a forged signature",
        ),
        pytest.param(None, (f"Cookie: X-Auth-Token={ALPHA}",), id="a token in a cookie"),
        pytest.param(None, (f"X_Auth_Token: {ALPHA}",), id="an underscored token"),
        pytest.param(None, (f"X-Auth-Token : {ALPHA}",), id="a space before the colon"),
        pytest.param(ALPHA[:-1], (), id="a prefix of a token"),
        pytest.param(ALPHA + "x", (), id="a token and a bit"),
        pytest.param(ALPHA.upper(), (), id="the token in another case"),
    ],
)
async def test_8_nothing_of_alphas_warm_list_reaches_anyone_else(
    proxy: Proxy, upstream: ImsLookalike, token: str | None, lines: tuple[str, ...]
) -> None:
    """Across tenants: on alpha's warm store, who is not alpha by exactly its token gets no answer from it."""
    warm = await send(proxy, LIST)
    assert (await send(proxy, LIST)).hit
    answer = await send(proxy, LIST, *lines, token=token)
    assert not answer.hit
    if token == BETA:
        secrets = [image.id.encode() for image in private_to(upstream.catalogue, "a1fa0000000000000000000000000001")]
        assert any(each in warm.body for each in secrets)
        assert not any(each in answer.body for each in secrets)


async def test_9_a_revoked_token_ends_with_the_first_401(proxy: Proxy, upstream: ImsLookalike) -> None:
    """Time: once the upstream has refused a token, on whatever path, it is shown nothing stored."""
    await send(proxy, LIST)
    caller = upstream.tokens.pop(ALPHA)
    assert (await send(proxy, LIST)).hit
    assert (await send(proxy, "/v2/images/x")).status == 401
    assert (await send(proxy, LIST)).status == 401
    upstream.tokens[ALPHA] = caller
    assert not (await send(proxy, LIST)).hit


async def test_10_a_value_altered_in_redis_is_a_miss(proxy: Proxy, upstream: ImsLookalike, redis: Redis) -> None:
    """Store: whatever bytes are put in the place of a span, the caller gets the upstream's list."""
    truth = await send(proxy, LIST)
    for forged in (b"", b"IMS3", b'{"images":[{"id":"evil"}]}', b"IMS3" + b"\0" * 200):
        async for key in redis.scan_iter("*:s:*"):
            await redis.set(key, forged)
        async with a_proxy(upstream.base_url, store={"url": await _url(redis)}) as other:
            assert (await send(other, LIST)).body == truth.body


async def _url(redis: Redis) -> str:
    at = redis.connection_pool.connection_kwargs
    return f"redis://{at['host']}:{at['port']}/0"


LINKS = [
    f"https://{EVIL}/v2/images?marker=m",
    f"//{EVIL}/v2/images?marker=m",
    "javascript:alert(1)?marker=m",
    "/v2/images?marker=a%0d%0aSet-Cookie:x",
    "/other/path?marker=m",
    "\\\\evil.example\\?marker=m",
    7,
    ["x"],
]


@pytest.mark.parametrize("link", LINKS)
async def test_11_a_link_of_the_upstreams_own_leads_nowhere_else(
    proxy: Proxy, upstream: ImsLookalike, link: object
) -> None:
    """Links: whatever `next` and an image's own links say, those that callers get are the API's own."""
    text = f'see https://{EVIL}/v2/images?marker=1 "next": "//{EVIL}"'

    async def lie(call: RecordedCall) -> web.StreamResponse | None:
        image = {"id": "i1", "name": text, "__description": text, "self": link, "file": link, "schema": link}
        return web.json_response({"first": link, "next": link, "schema": link, "images": [image]})

    upstream.response_hook = lie
    answer = orjson.loads((await send(proxy, "/v2/images?limit=1")).body)
    (image,) = answer["images"]
    assert image["name"] == image["__description"] == text
    links = [answer.get("next", "/"), answer["first"], answer["schema"], image["self"], image["file"], image["schema"]]
    assert all(each.startswith("/v2/") or each in {"/", "/other/path?marker=m"} for each in links)
    assert all(EVIL not in each and "\r" not in each for each in links)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        pytest.param(b'{"images": [', {}, id="cut short"),
        pytest.param(b"<html>not a list</html>", {}, id="no JSON"),
        pytest.param(b'{"images": {}}', {}, id="no list"),
        pytest.param(b'{"images": []}', {"Content-Encoding": "gzip"}, id="a coding that it is not in"),
        pytest.param(b"\xff\xfe", {"Content-Type": "application/json"}, id="no text"),
    ],
)
async def test_12_a_body_that_is_no_list_is_not_stored(
    proxy: Proxy, upstream: ImsLookalike, redis: Redis, body: bytes, headers: dict[str, str]
) -> None:
    """Encodings: a 200 that can't be read as a list goes to who asked and is asked for again."""

    async def garble(_: RecordedCall) -> web.StreamResponse | None:
        return web.Response(body=body, headers=headers)

    upstream.response_hook = garble
    await send(proxy, LIST)
    upstream.response_hook = None
    assert b"IMS3" not in await everything(redis)
    answer = await send(proxy, LIST)
    assert answer.status == 200
    assert not answer.hit


@pytest.mark.parametrize("coding", ["gzip", "gzip;q=0", "identity;q=0", "br, zstd, *", "GZIP", "gzip, gzip", "\x7f"])
async def test_12_what_one_caller_accepts_decides_nothing_for_another(
    proxy: Proxy, upstream: ImsLookalike, coding: str
) -> None:
    """Accept-Encoding variants share one fetch, and who asks for none gets plain bytes."""
    await send(proxy, LIST, f"Accept-Encoding: {coding}")
    plain = await send(proxy, LIST)
    assert len(orjson.loads(plain.body)["images"]) == 10
    assert len(upstream.calls) == 1


async def test_12_an_upstream_that_hangs_up_half_way_stores_nothing(
    proxy: Proxy, upstream: ImsLookalike, redis: Redis
) -> None:
    """A body shorter than its Content-Length is an error to who asked, and nothing to anyone else."""

    async def cut(call: RecordedCall) -> web.StreamResponse | None:
        assert call.transport is not None
        call.transport.write(b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"images": [{"id": "x"}]}')
        await asyncio.sleep(0)
        call.abort_connection()
        return None

    upstream.response_hook = cut
    assert (await send(proxy, LIST)).status == 502
    upstream.response_hook = None
    assert b"IMS3" not in await everything(redis)
    assert (await send(proxy, LIST)).status == 200
