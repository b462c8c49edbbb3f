"""Lists over real sockets: what a caller gets, and what that costs upstream."""

from __future__ import annotations

import pytest
from aiohttp import web

from proxy.demo.app import ImsLookalike, RecordedCall
from proxy.http.negotiation import ACCEPTED_CODINGS, CODINGS, decode, encode
from tests.support.running import BETA, Client, Proxy, a_proxy

LIST = "/v2/images?__isregistered=true&limit=5"


async def test_a_second_request_costs_no_call(client: Client, direct: Client, upstream: ImsLookalike) -> None:
    """The first says that it went forward, the second that it hit, and both show what the upstream shows."""
    expected = await direct.ask(LIST)
    upstream.clear_recorded_calls()
    first, second = await client.ask(LIST), await client.ask(LIST)
    assert first.cache_status.startswith("ims-proxy; fwd=uri-miss; fwd-status=200; ttl=")
    assert first.cache_status.endswith("; stored")
    assert second.hit
    assert first.body == second.body
    assert first.json()["images"] == expected.json()["images"]
    assert upstream.call_counts == {"GET /v2/images": 1}


async def test_a_stored_answer_says_how_it_may_be_used(client: Client) -> None:
    """Age, lifetime for this caller alone, a strong tag, and what the answer depends on."""
    await client.ask(LIST)
    hit = await client.ask(LIST)
    assert hit.fields["Age"] == "0"
    directive, _, seconds = hit.fields["Cache-Control"].rpartition("=")
    assert directive == "private, max-age"
    assert 50 <= int(seconds) <= 60
    assert {"X-Auth-Token", "X-Api-Version", "Accept-Encoding"} <= set(hit.fields["Vary"].split(", "))
    assert hit.fields["ETag"].startswith('"')
    assert hit.fields["Content-Type"].startswith("application/json")
    assert int(hit.fields["Content-Length"]) == len(hit.body)


async def test_head_gives_the_fields_of_get(client: Client, upstream: ImsLookalike) -> None:
    """HEAD works though Glance's list knows none, fills the store, and has no body."""
    head = await client.ask(LIST, method="HEAD")
    get = await client.ask(LIST)
    assert (head.status, head.body) == (200, b"")
    assert get.hit
    assert head.fields["Content-Length"] == get.fields["Content-Length"] == str(len(get.body))
    assert head.fields["ETag"] == get.fields["ETag"]
    assert upstream.call_counts == {"GET /v2/images": 1}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_not_modified_is_said_only_when_asked(client: Client, method: str) -> None:
    """A tag that matches gives 304 without a body; another one, or none, gives the list."""
    tag = (await client.ask(LIST)).fields["ETag"]
    same = await client.ask(LIST, method=method, If_None_Match=f'"other", {tag}')
    assert (same.status, same.body, same.fields["ETag"]) == (304, b"", tag)
    assert same.fields["Cache-Control"].startswith("private")
    assert "Vary" in same.fields
    assert (await client.ask(LIST, method=method, If_None_Match='"other"')).status == 200
    assert (await client.ask(LIST, method=method)).status == 200


async def test_a_tag_belongs_to_one_representation(client: Client) -> None:
    """Page, coding and links each make another tag."""
    plain = await client.ask(LIST)
    tags = {plain.fields["ETag"]}
    tags.add((await client.ask(LIST, Accept_Encoding="gzip")).fields["ETag"])
    tags.add((await client.ask(LIST, Accept_Encoding="zstd")).fields["ETag"])
    tags.add((await client.ask("/v2/images?limit=5")).fields["ETag"])
    assert len(tags) == 4
    assert (await client.ask(LIST, Accept_Encoding="gzip", If_None_Match=plain.fields["ETag"])).status == 200


@pytest.mark.parametrize(("accepted", "coding"), [("gzip, deflate", "gzip"), ("gzip, deflate, br, zstd", "zstd")])
async def test_a_coding_is_made_for_who_accepts_it(client: Client, accepted: str, coding: str) -> None:
    """Compressed and plain are the same list; nobody gets a coding that was not asked for."""
    zipped = await client.ask(LIST, Accept_Encoding=accepted)
    plain = await client.ask(LIST, Accept_Encoding="gzip;q=0, identity")
    assert zipped.fields["Content-Encoding"] == coding
    assert decode(zipped.body, coding, max_bytes=len(plain.body)) == plain.body
    assert len(zipped.body) < len(plain.body)
    assert "Content-Encoding" not in plain.fields
    assert "Content-Encoding" not in (await client.ask(LIST)).fields


@pytest.mark.parametrize("coding", CODINGS)
async def test_a_list_in_a_coding_that_was_asked_for_is_read(
    client: Client, direct: Client, upstream: ImsLookalike, coding: str
) -> None:
    """The upstream is asked for what can be undone here, and its list is stored and given without it."""
    plain = await direct.ask(LIST)
    upstream.clear_recorded_calls()

    async def script(_: RecordedCall) -> web.StreamResponse | None:
        return web.Response(body=encode(plain.body, coding), headers={"Content-Encoding": coding})

    upstream.response_hook = script
    assert (await client.ask(LIST)).ids == plain.ids
    assert upstream.calls[0].headers["Accept-Encoding"] == ACCEPTED_CODINGS
    stored = await client.ask(LIST)
    assert stored.hit
    assert "Content-Encoding" not in stored.fields


@pytest.mark.parametrize(
    "spelling",
    [
        "/v2/images?limit=5&__isregistered=true",
        "/v2/images?__isregistered=true&sort_dir=desc&limit=5&sort_key=created_at",
        "/v2/images?%5F%5Fisregistered=%74rue&limit=%35",
        "/v2/images?__isregistered=true&limit=05&",
        "/v2/images?__isregistered=true&limit=2",
    ],
)
async def test_spellings_of_one_list_share_it(client: Client, upstream: ImsLookalike, spelling: str) -> None:
    """Another spelling of the same query, or a window inside it, is a hit."""
    whole = await client.ask(LIST)
    other = await client.ask(spelling)
    assert other.hit
    assert other.ids == whole.ids[: len(other.ids)]
    assert upstream.call_counts == {"GET /v2/images": 1}


@pytest.mark.parametrize(
    "fields",
    [
        {
            "X-Forwarded-Host": "evil.example",
            "X-Forwarded-Proto": "https",
            "Forwarded": "host=evil.example;proto=https",
        },
        {"X-Host": "evil.example", "X-Original-URL": "/v2/other", "X-Rewrite-URL": "/v2/other"},
        {"X-HTTP-Method-Override": "DELETE", "X-Project-Id": "beta"},
        {"Host": "EVIL.example:99"},
        {"User-Agent": "another", "Accept": "text/html", "Accept-Language": "de"},
    ],
    ids=lambda fields: next(iter(fields)),
)
async def test_fields_that_are_not_keyed_change_nothing(
    client: Client, upstream: ImsLookalike, fields: dict[str, str]
) -> None:
    """Neither upstream nor in the answer is anything seen of them, first or second."""
    poisoned = await client.ask(LIST, fields=fields.items())
    (call,) = upstream.calls
    assert not {"x-forwarded-host", "forwarded", "x-host", "x-original-url", "x-rewrite-url"} & {
        name.lower() for name in call.headers
    }
    assert "evil" not in "".join(call.headers.values())
    clean = await client.ask(LIST)
    assert clean.hit
    assert clean.body == poisoned.body
    assert b"evil" not in clean.body


async def test_two_tokens_never_share(client: Client, direct: Client, upstream: ImsLookalike) -> None:
    """Each gets its own project's list, cold and warm."""
    expected = {token: (await direct.ask(LIST, token=token)).ids for token in ("demo-token-alpha", BETA)}
    upstream.clear_recorded_calls()
    for _ in range(2):
        for token, ids in expected.items():
            assert (await client.ask(LIST, token=token)).ids == ids
    assert upstream.call_counts == {"GET /v2/images": 2}


@pytest.mark.parametrize("form", ["M", "Q", "q", "QQ"])
async def test_another_form_of_the_api_is_another_list(client: Client, upstream: ImsLookalike, form: str) -> None:
    """`X-Api-Version` is part of what is asked."""
    await client.ask(LIST)
    assert not (await client.ask(LIST, X_Api_Version=form)).hit
    assert upstream.calls[-1].headers["X-Api-Version"] == form


async def test_links_carry_every_parameter(client: Client, direct: Client) -> None:
    """The upstream's own next loses a repeated tag; the proxy's does not, and leads to the right page."""
    query = "/v2/images?tag=nightly&sort_key=status&sort_key=created_at&tag=a.b&limit=1"
    page = (await client.ask(query)).json()
    canonical = "/v2/images?sort_key=status&sort_key=created_at&tag=a.b&tag=nightly&limit=1"
    assert page["first"] == canonical
    assert page["schema"] == "/v2/schemas/images"
    marker = page["images"][0]["id"]
    assert page["next"] == f"{canonical}&marker={marker}"
    assert (await client.ask(page["next"])).ids == (await direct.ask(f"{query}&marker={marker}")).ids


async def test_links_stand_on_the_public_url_where_there_is_one(upstream: ImsLookalike) -> None:
    """Absolute links are the operator's, not the caller's."""
    server = {"links": "absolute", "public_url": "https://ims.example/api"}
    async with a_proxy(upstream.base_url, server=server) as proxy:
        page = (await proxy.client.ask(LIST, X_Forwarded_Host="evil.example", Host="evil.example")).json()
        assert page["first"].startswith("https://ims.example/api/v2/images?")
        assert page["next"].startswith("https://ims.example/api/v2/images?")
        assert page["images"][0]["self"].startswith("/v2/images/")


async def test_a_trusted_proxy_names_the_links_and_nobody_else_s(upstream: ImsLookalike) -> None:
    """Callers behind different names share the span and get their own links."""
    server = {"links": "absolute", "trusted_proxies": "127.0.0.0/8"}
    async with a_proxy(upstream.base_url, server=server) as proxy:
        for host in ("one.example", "two.example"):
            answer = await proxy.client.ask(LIST, X_Forwarded_Host=host, X_Forwarded_Proto="https")
            assert answer.json()["first"].startswith(f"https://{host}/v2/images?")
            assert "X-Forwarded-Host" in answer.fields["Vary"]
        assert (await proxy.client.ask(LIST)).json()["first"].startswith("/v2/images?")
        assert upstream.call_counts == {"GET /v2/images": 1}


async def test_the_extension_list_is_the_upstream_s(client: Client, direct: Client, upstream: ImsLookalike) -> None:
    """`/v2/cloudimages` has no links and is paged by last id until an empty page."""
    whole = await direct.ask("/v2/cloudimages")
    assert (await client.ask("/v2/cloudimages")).body == whole.body
    upstream.clear_recorded_calls()
    part = await client.ask(f"/v2/cloudimages?limit=7&marker={whole.ids[9]}")
    assert part.hit
    assert part.ids == whole.ids[10:17]
    assert (await client.ask(f"/v2/cloudimages?marker={whole.ids[-1]}")).ids == []
    assert upstream.call_counts["GET /v2/cloudimages"] <= 1


async def test_a_crawl_costs_few_calls_and_a_second_none(upstream: ImsLookalike, direct: Client) -> None:
    """At fifty a page with readahead, then again, then in another spelling."""
    expected = (await direct.ask("/v2/cloudimages")).ids
    upstream.clear_recorded_calls()
    async with a_proxy(upstream.base_url, cache={"readahead": True}) as proxy:

        async def crawl(target: str | None) -> list[str]:
            seen: list[str] = []
            while target:
                page = await proxy.client.ask(target)
                seen += page.ids
                target = page.json().get("next")
            return seen

        assert await crawl("/v2/images?limit=10&__isregistered=true") == expected
        assert upstream.call_counts["GET /v2/images"] <= 6
        upstream.clear_recorded_calls()
        assert await crawl("/v2/images?limit=10&__isregistered=true") == expected
        assert await crawl("/v2/images?sort_dir=desc&__isregistered=true&limit=50") == expected
        assert upstream.call_counts["GET /v2/images"] == 0


async def test_what_calls_cost_is_counted(proxy: Proxy) -> None:
    """Metrics know requests by cache status, and calls upstream."""
    for _ in range(3):
        await proxy.client.ask(LIST)
    assert await proxy.metric("ims_proxy_requests_total") == 3
    assert await proxy.metric('ims_proxy_requests_total{cache_status="hit"') == 2
    assert await proxy.metric("ims_proxy_upstream_calls_total") == 1
    assert await proxy.metric("ims_proxy_stored_bytes") > 0
